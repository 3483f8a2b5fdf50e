// The CUDA kernels as C++ on one processor: a block is a loop over its threads, phase by phase.
//
// Threads and blocks run in an order that the caller chooses (forward, backward, shuffled), so that a result that
// depends on the order of threads shows. KERNELS is the path of the .cu file.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace shim {
int block_size, block[3], order;
std::vector<char> dynamic;

int pick(int k, int n) {
    if (order == 1) return n - 1 - k;
    if (order == 2) {  // a step that has no factor in common with n
        int step = n / 3 * 2 + 1;
        while (std::__gcd(step, n) != 1) ++step;
        return (int)(((long long)k * step + n / 2) % n);
    }
    return k;
}
}  // namespace shim

#define KERNEL static void
#define DEVICE static inline
#define APART static
#define SHARED static
#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(shim::dynamic.data())
#define EACH_THREAD(t) \
    for (int t##_at = 0, t = shim::pick(0, shim::block_size); t##_at < shim::block_size; t = shim::pick(++t##_at, shim::block_size))
#define SYNC (void)0
#define BLOCK_X (shim::block[0])
#define BLOCK_Y (shim::block[1])
#define BLOCK_Z (shim::block[2])
#define BLOCK_SIZE (shim::block_size)

using std::max;
using std::min;

template <class T> T atomicAdd(T* at, T value) { T old = *at; *at += value; return old; }
template <class T> T atomicMin(T* at, T value) { T old = *at; *at = min(old, value); return old; }
template <class T> T atomicMax(T* at, T value) { T old = *at; *at = max(old, value); return old; }
template <class T> T atomicOr(T* at, T value) { T old = *at; *at |= value; return old; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }

#include KERNELS

namespace shim {
struct Entry {
    std::string name;
    std::vector<int> sizes;
    std::function<void(void**)> call;
};

template <class... A, size_t... I> void unpack(void (*kernel)(A...), void** args, std::index_sequence<I...>) {
    kernel(*static_cast<A*>(args[I])...);
}

template <class... A> Entry entry(const char* name, void (*kernel)(A...)) {
    return {name, {int(sizeof(A))...}, [=](void** args) { unpack(kernel, args, std::index_sequence_for<A...>{}); }};
}

#define ENTRY(name) entry(#name, name)
const std::vector<Entry> entries = {
    ENTRY(scan_partial), ENTRY(scan_sums), ENTRY(pillar_cells), ENTRY(pillar_opens), ENTRY(pillar_numbers),
    ENTRY(pillar_counts), ENTRY(pillar_lists), ENTRY(pillar_kept), ENTRY(pillar_features), ENTRY(decode_mark),
    ENTRY(decode_select), ENTRY(nms_hits), ENTRY(nms_keep), ENTRY(site_bits), ENTRY(bit_counts), ENTRY(site_index),
    ENTRY(strided_bits), ENTRY(strided_sites), ENTRY(table_fill),
};
}  // namespace shim

// 0: done; 1: no such kernel; 2: another number of parameters; 3: a parameter of another size; 4: an impossible launch.
extern "C" int shim_launch(const char* name, const int* grid, const int* block, void** args, const int* sizes, int count,
                           int shared_bytes, int order) {
    for (const auto& each : shim::entries) {
        if (each.name != name) continue;
        if ((int)each.sizes.size() != count) return 2;
        for (int k = 0; k < count; ++k) if (each.sizes[k] != sizes[k]) return 3;
        if (block[0] < 1 || block[0] > 1024 || block[1] != 1 || block[2] != 1) return 4;
        if (grid[0] < 1 || grid[1] < 1 || grid[2] < 1 || grid[1] > 65535 || grid[2] > 65535) return 4;
        if (shared_bytes > 48 << 10) return 4;
        shim::block_size = block[0], shim::order = order;
        const long long blocks = (long long)grid[0] * grid[1] * grid[2];
        for (long long k = 0; k < blocks; ++k) {
            const long long b = shim::pick((int)k, (int)blocks);
            shim::block[0] = b % grid[0], shim::block[1] = b / grid[0] % grid[1], shim::block[2] = b / grid[0] / grid[1];
            shim::dynamic.assign(shared_bytes, (char)0xCD);
            each.call(args);
        }
        return 0;
    }
    return 1;
}

// Sizes of the structures that the host packs.
extern "C" int shim_size(const char* name) {
    const std::string wanted = name;
    if (wanted == "PillarPlan") return sizeof(PillarPlan);
    if (wanted == "FrameHead") return sizeof(FrameHead);
    if (wanted == "PillarStats") return sizeof(PillarStats);
    if (wanted == "TaskMaps") return sizeof(TaskMaps);
    if (wanted == "DecodePlan") return sizeof(DecodePlan);
    if (wanted == "Volume") return sizeof(Volume);
    if (wanted == "Window") return sizeof(Window);
    return -1;
}
