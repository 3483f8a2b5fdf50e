// Points to pillars, head maps to boxes, suppression, and neighbour tables of sparse convolutions.
//
// Compiled at run time (NVRTC, or nvcc through pycuda) with contraction of multiply-adds off, so that arithmetic is
// that of the numpy reference. The tests compile the same text as C++, where EACH_THREAD is a loop.
//
// Results do not depend on the order in which threads run. Atomics are used only where order cannot show: minima, sums
// of integers, bits, and lists that are put in order afterwards by keys which are all different (indices of points, or
// logit and place). Numbers are given by prefix sums. No floating-point sum is shared between threads.
//
// A kernel is a sequence of phases: EACH_THREAD(t) { ... } runs once per thread, SYNC ends a phase, and code between
// phases depends only on what is equal in the whole block. What lives longer than a phase is in shared memory.
// Sizes are capacities: how many points or boxes there really are is read from device memory, so that the launches of
// all frames are the same and can be captured in a CUDA graph.

#ifdef __CUDACC__
#define KERNEL extern "C" __global__ void
#define DEVICE __device__ __forceinline__
#define SHARED __shared__
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#define APART __device__ __noinline__
#define EACH_THREAD(t) for (int t = threadIdx.x, t##_once = 1; t##_once; t##_once = 0)
#define SYNC __syncthreads()
#define BLOCK_X ((int)blockIdx.x)
#define BLOCK_Y ((int)blockIdx.y)
#define BLOCK_Z ((int)blockIdx.z)
#define BLOCK_SIZE ((int)blockDim.x)
#endif

#define EACH_ITEM(i, n) EACH_THREAD(i##_thread) if (const int i = BLOCK_X * BLOCK_SIZE + i##_thread; i < (n))

typedef unsigned long long u64;
typedef unsigned int u32;

DEVICE bool finite32(float x) { return fabsf(x) <= 3.402823466e38f; }  // false for NaN

// ---- prefix sums: SCAN_SIZE items per block, then the sums of all blocks in one block ----

#define SCAN_THREADS 256
#define SCAN_EACH 8
#define SCAN_SIZE (SCAN_THREADS * SCAN_EACH)

// Inclusive sums of part[0..SCAN_THREADS), in place.
#define SCAN_PARTS(part)                                                            \
    for (int reach = 1; reach < SCAN_THREADS; reach *= 2) {                         \
        EACH_THREAD(t) { moved[t] = part[t] + (t >= reach ? part[t - reach] : 0); } \
        SYNC;                                                                       \
        EACH_THREAD(t) { part[t] = moved[t]; }                                      \
        SYNC;                                                                       \
    }

// out[i] = sum of in[j] over the j < i of the same block; sums[b] = sum of block b.
KERNEL scan_partial(const int* in, int* out, int* sums, int n) {
    SHARED int part[SCAN_THREADS], moved[SCAN_THREADS];
    EACH_THREAD(t) {
        const int first = BLOCK_X * SCAN_SIZE + t * SCAN_EACH;
        int sum = 0;
        for (int i = first; i < first + SCAN_EACH && i < n; ++i) sum += in[i];
        part[t] = sum;
    }
    SYNC;
    SCAN_PARTS(part)
    EACH_THREAD(t) {
        const int first = BLOCK_X * SCAN_SIZE + t * SCAN_EACH;
        int sum = t ? part[t - 1] : 0;
        for (int i = first; i < first + SCAN_EACH && i < n; ++i) {
            out[i] = sum;
            sum += in[i];
        }
        if (t == SCAN_THREADS - 1) sums[BLOCK_X] = part[t];
    }
}

// sums become exclusive prefix sums, in place; *total is the sum of all. One block.
KERNEL scan_sums(int* sums, int* total, int n) {
    SHARED int part[SCAN_THREADS], moved[SCAN_THREADS], before;
    EACH_THREAD(t) { if (t == 0) before = 0; }
    for (int start = 0; start < n; start += SCAN_THREADS) {
        EACH_THREAD(t) { part[t] = start + t < n ? sums[start + t] : 0; }
        SYNC;
        SCAN_PARTS(part)
        EACH_THREAD(t) { if (start + t < n) sums[start + t] = before + (t ? part[t - 1] : 0); }
        SYNC;
        EACH_THREAD(t) { if (t == 0) before += part[SCAN_THREADS - 1]; }
        SYNC;
    }
    EACH_THREAD(t) { if (t == 0) *total = before; }
}

DEVICE int scanned(const int* out, const int* sums, int i) { return out[i] + sums[i / SCAN_SIZE]; }

// ---- points to pillars (kd3d/runtime/pillars.py) ----

#define MAX_FEATURES 8

struct PillarPlan {
    float low[3], cell[3];    // of the grid along x, y, z; the cell's height is the range's
    float centre[3];          // of the first cell
    int nx, ny;
    int columns[MAX_FEATURES];  // of the cloud, per feature; -1: zero
    int features, stride;       // per point: used, and in the cloud
    int intensity, transform;   // feature that is transformed, or -1; 1 divides by 255, 2 is tanh
    int max_points, max_pillars, capacity;
    int wide;  // counts and cells go out as int64, otherwise int32
};

struct FrameHead {  // travels in front of the cloud
    int points, crop;
    double matrix[12], width, height;  // to pixels times depth, and the image; where crop is 1
};

struct PillarStats {
    int pillars;         // that occur, kept or not
    int inside, kept;    // points
    int broken, behind;  // points with NaN or infinite values; and INT_MAX minus the first of them
};

APART float point_feature(const PillarPlan* plan, const float* cloud, int i, int feature) {
    const int column = plan->columns[feature];
    const float value = column < 0 ? 0.0f : cloud[(u64)i * plan->stride + column];
    if (feature != plan->intensity) return value;
    return plan->transform == 1 ? value / 255.0f : plan->transform == 2 ? tanhf(value) : value;
}

DEVICE bool in_image(const FrameHead* head, double x, double y, double z) {
    const double* m = head->matrix;
    const double depth = x * m[8] + y * m[9] + z * m[10] + m[11];
    const double u = x * m[0] + y * m[1] + z * m[2] + m[3], v = x * m[4] + y * m[5] + z * m[6] + m[7];
    return depth > 0 && u >= 0 && u < head->width * depth && v >= 0 && v < head->height * depth;
}

DEVICE int point_cell(const PillarPlan* plan, const FrameHead* head, const float* cloud, int i) {
    const float px = point_feature(plan, cloud, i, 0), py = point_feature(plan, cloud, i, 1),
                pz = point_feature(plan, cloud, i, 2);
    if (head->crop && !in_image(head, px, py, pz)) return -1;
    const float x = (px - plan->low[0]) / plan->cell[0], y = (py - plan->low[1]) / plan->cell[1],
                z = (pz - plan->low[2]) / plan->cell[2];
    if (!(x >= 0 && x < plan->nx && y >= 0 && y < plan->ny && z >= 0 && z < 1)) return -1;
    return (int)y * plan->nx + (int)x;
}

// The cell of every point, and of every cell its first point. opener [ny * nx] is INT_MAX or more than any index.
KERNEL pillar_cells(const PillarPlan* plan, const FrameHead* head, const float* cloud, int* cells, int* opener,
                    PillarStats* stats) {
    SHARED int inside;
    EACH_THREAD(t) { if (t == 0) inside = 0; }
    SYNC;
    EACH_ITEM(i, plan->capacity) {
        int cell = -1;
        if (i < head->points) {
            bool broken = false;
            for (int f = 0; f < plan->features; ++f) broken |= !finite32(point_feature(plan, cloud, i, f));
            if (broken) {
                atomicAdd(&stats->broken, 1);
                atomicMax(&stats->behind, 0x7fffffff - i);
            }
            cell = point_cell(plan, head, cloud, i);
        }
        cells[i] = cell;
        if (cell >= 0) {
            atomicMin(opener + cell, i);
            atomicAdd(&inside, 1);
        }
    }
    SYNC;
    EACH_THREAD(t) { if (t == 0 && inside) atomicAdd(&stats->inside, inside); }
}

// 1 for the points that open a pillar.
KERNEL pillar_opens(const int* cells, const int* opener, int* opens, int n) {
    EACH_ITEM(i, n) { opens[i] = cells[i] >= 0 && opener[cells[i]] == i; }
}

// Pillars are numbered by their first points. opener becomes the pillar of each cell, -1 past the last one kept.
KERNEL pillar_numbers(const PillarPlan* plan, const int* cells, const int* opens, const int* before, const int* sums,
                      int* opener, int* pillar_cell) {
    EACH_ITEM(i, plan->capacity) {
        if (opens[i]) {
            const int pillar = scanned(before, sums, i);
            opener[cells[i]] = pillar < plan->max_pillars ? pillar : -1;
            if (pillar < plan->max_pillars) pillar_cell[pillar] = cells[i];
        }
    }
}

KERNEL pillar_counts(const int* cells, const int* pillar_of, int* counts, int n) {
    EACH_ITEM(i, n) {
        if (cells[i] >= 0 && pillar_of[cells[i]] >= 0) atomicAdd(counts + pillar_of[cells[i]], 1);
    }
}

// Points by pillar; within a pillar in any order.
KERNEL pillar_lists(const int* cells, const int* pillar_of, const int* before, const int* sums, int* taken, int* list,
                    int n) {
    EACH_ITEM(i, n) {
        const int pillar = cells[i] >= 0 ? pillar_of[cells[i]] : -1;
        if (pillar >= 0) list[scanned(before, sums, pillar) + atomicAdd(taken + pillar, 1)] = i;
    }
}

// How many points are kept. One block of SCAN_THREADS.
KERNEL pillar_kept(const PillarPlan* plan, const int* counts, PillarStats* stats) {
    SHARED int kept;
    EACH_THREAD(t) { if (t == 0) kept = 0; }
    SYNC;
    EACH_THREAD(t) {
        int mine = 0;
        for (int p = t; p < plan->max_pillars; p += BLOCK_SIZE) mine += min(counts[p], plan->max_points);
        atomicAdd(&kept, mine);
    }
    SYNC;
    EACH_THREAD(t) { if (t == 0) stats->kept = kept; }
}

DEVICE void store_index(void* out, int at, int value, int wide) {
    if (wide) ((long long*)out)[at] = value; else ((int*)out)[at] = value;
}

// Pillar p's points in order, decorated: one small block per row of the network's input. Shared: 2 * max_points ints.
KERNEL pillar_features(const PillarPlan* plan, const float* cloud, const PillarStats* stats, const int* pillar_cell,
                       const int* counts, const int* before, const int* sums, const int* list, float* features,
                       void* out_counts, void* out_cells) {
    DYNAMIC_SHARED(int, chosen);
    SHARED int found[2], at;
    SHARED float mean[3];
    const int p = BLOCK_X, slots = plan->max_points, width = plan->features + 6;
    const bool real = p < min(stats->pillars, plan->max_pillars);
    const int n = real ? counts[p] : 0, kept = min(n, slots), cell = real ? pillar_cell[p] : plan->nx * plan->ny;
    const int* mine = list + (real ? scanned(before, sums, p) : 0);
    int* ordered = chosen + slots;
    float* out = features + (u64)p * slots * width;
    EACH_THREAD(t) {
        if (t == 0) {
            found[0] = found[1] = at = 0;
            store_index(out_counts, p, kept, plan->wide);
            store_index(out_cells, p, cell, plan->wide);
        }
    }
    SYNC;
    // The last point kept: the smallest index with that many at or below it, by bisection.
    int last = 0x7fffffff, turn = 0;
    if (n > slots) {
        int low = 0, high = plan->capacity - 1;
        while (low < high) {
            const int middle = low + (high - low) / 2;
            EACH_THREAD(t) {
                int below = 0;
                for (int k = t; k < n; k += BLOCK_SIZE) below += mine[k] <= middle;
                if (below) atomicAdd(found + turn, below);
                if (t == 0) found[1 - turn] = 0;
            }
            SYNC;
            if (found[turn] >= slots) high = middle; else low = middle + 1;
            SYNC;
            turn = 1 - turn;
        }
        last = low;
    }
    EACH_THREAD(t) {
        for (int k = t; k < n; k += BLOCK_SIZE) if (mine[k] <= last) chosen[atomicAdd(&at, 1)] = mine[k];
    }
    SYNC;
    EACH_THREAD(t) {
        for (int k = t; k < kept; k += BLOCK_SIZE) {
            int rank = 0;
            for (int q = 0; q < kept; ++q) rank += chosen[q] < chosen[k];
            ordered[rank] = chosen[k];
        }
    }
    SYNC;
    EACH_THREAD(t) {
        if (t < 3 && kept) {
            double sum = 0;
            for (int k = 0; k < kept; ++k) sum += point_feature(plan, cloud, ordered[k], t);
            mean[t] = (float)(sum / kept);
        }
    }
    SYNC;
    EACH_THREAD(t) {
        for (int k = t; k < slots * width; k += BLOCK_SIZE) {
            const int slot = k / width, f = k % width, axis = (f - plan->features) % 3;
            float value = 0;
            if (slot < kept && f < plan->features) {
                value = point_feature(plan, cloud, ordered[slot], f);
            } else if (slot < kept) {
                const int step = axis == 0 ? cell % plan->nx : axis == 1 ? cell / plan->nx : 0;
                const float centre = axis == 2 ? plan->centre[2] : step * plan->cell[axis] + plan->centre[axis];
                const bool from_mean = f < plan->features + 3;
                value = point_feature(plan, cloud, ordered[slot], axis) - (from_mean ? mean[axis] : centre);
            }
            out[k] = value;
        }
    }
}

// ---- head maps to boxes (kd3d/runtime/decode.py) ----

#define MAX_TOP_K 4096

struct TaskMaps {
    const float *hm, *center, *center_z, *dim, *rot, *vel;  // [C, ny, nx]; vel may be null
    int classes, first_label;
    double threshold;  // of suppression
};

struct DecodePlan {
    int ny, nx, peak, best_class;  // best_class: one class per cell
    int top_k, pre, post, nms;     // nms: 0 none, 1 rotate, 2 circle
    int capacity;                  // keys per task
    float lowest;                  // the lowest logit whose score is above the threshold
    float cell, x_min, y_min, limit[6];
};

// Ascending keys are descending logits, then ascending places; no two are equal.
DEVICE u64 logit_key(float logit, int place) {
    const float value = logit == 0 ? 0.0f : logit;  // -0 equals 0
    u32 bits;
    memcpy(&bits, &value, 4);
    const u32 ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (u64)(~ascending) << 32 | (u32)place;
}

DEVICE bool is_candidate(const DecodePlan* plan, const float* hm, int label, int row, int column) {
    const float* map = hm + (u64)label * plan->ny * plan->nx;
    const float logit = map[row * plan->nx + column];
    if (!(logit >= plan->lowest)) return false;
    if (plan->peak == 1) return true;
    for (int y = max(row - 1, 0); y <= min(row + 1, plan->ny - 1); ++y)
        for (int x = max(column - 1, 0); x <= min(column + 1, plan->nx - 1); ++x)
            if (map[y * plan->nx + x] > logit) return false;
    return true;
}

// The list of candidates of each task (blocks along y), in any order; counts [tasks], and broken [tasks]: NaN seen.
KERNEL decode_mark(const DecodePlan* plan, const TaskMaps* tasks, u64* keys, int* counts, int* broken) {
    const TaskMaps* task = tasks + BLOCK_Y;
    const int cells = plan->ny * plan->nx;
    EACH_ITEM(i, task->classes * cells) {
        const int label = i / cells, place = i % cells, row = place / plan->nx, column = place % plan->nx;
        const float logit = task->hm[i];
        if (logit != logit) atomicOr(broken + BLOCK_Y, 1);
        bool good = is_candidate(plan, task->hm, label, row, column);
        for (int other = 0; good && plan->best_class && other < task->classes; ++other) {
            const float rival = task->hm[other * cells + place];
            const bool better = rival > logit || (rival == logit && other < label);
            good = !(better && is_candidate(plan, task->hm, other, row, column));
        }
        if (good) keys[(u64)BLOCK_Y * plan->capacity + atomicAdd(counts + BLOCK_Y, 1)] = logit_key(logit, i);
    }
}

DEVICE float score_of(float x) {
    const float small = expf(-fabsf(x));
    return x >= 0 ? 1 / (1 + small) : small / (1 + small);
}

// One box [9] at a place of the heatmap; whether it is finite and its centre within the limits.
APART bool box_at(const DecodePlan* plan, const TaskMaps* task, int place, float* box) {
    const int cells = plan->ny * plan->nx, at = place % cells;
    box[0] = ((float)(at % plan->nx) + task->center[at]) * plan->cell + plan->x_min;
    box[1] = ((float)(at / plan->nx) + task->center[cells + at]) * plan->cell + plan->y_min;
    box[2] = task->center_z[at];
    for (int side = 0; side < 3; ++side) box[3 + side] = expf(task->dim[side * cells + at]);
    box[6] = atan2f(task->rot[at], task->rot[cells + at]);
    const float unknown = nanf("");
    for (int axis = 0; axis < 2; ++axis) box[7 + axis] = task->vel ? task->vel[axis * cells + at] : unknown;
    bool good = true;
    for (int k = 0; k < 7; ++k) good = good && finite32(box[k]);
    for (int axis = 0; axis < 3; ++axis)
        good = good && box[axis] >= plan->limit[axis] && box[axis] <= plan->limit[3 + axis];
    return good;
}

// The top_k best candidates of a task (one block each), best first, as boxes. Shared: keys, a power of two >= top_k.
KERNEL decode_select(const DecodePlan* plan, const TaskMaps* tasks, const u64* keys, const int* counts, float* boxes,
                     float* scores, int* labels, int* found) {
    DYNAMIC_SHARED(u64, best);
    SHARED int histogram[256], part[SCAN_THREADS], moved[SCAN_THREADS], at, before, missing;
    SHARED u64 prefix;
    const TaskMaps* task = tasks + BLOCK_X;
    const u64* mine = keys + (u64)BLOCK_X * plan->capacity;
    const int n = counts[BLOCK_X], kept = min(n, plan->top_k), cells = plan->ny * plan->nx;
    int size = 1;
    while (size < kept) size *= 2;
    EACH_THREAD(t) { if (t == 0) { prefix = 0; missing = kept; at = before = 0; } }
    SYNC;
    // The last key kept, eight bits at a time from the top: which value of the digit holds the kept-th key.
    for (int shift = 56; n > kept && shift >= 0; shift -= 8) {
        EACH_THREAD(t) { for (int k = t; k < 256; k += BLOCK_SIZE) histogram[k] = 0; }
        SYNC;
        EACH_THREAD(t) {
            for (int k = t; k < n; k += BLOCK_SIZE)
                if (shift == 56 || mine[k] >> (shift + 8) == prefix) atomicAdd(histogram + (mine[k] >> shift & 255), 1);
        }
        SYNC;
        EACH_THREAD(t) {
            if (t == 0) {
                int digit = 0;
                while (histogram[digit] < missing) missing -= histogram[digit++];
                prefix = prefix << 8 | digit;
            }
        }
        SYNC;
    }
    const u64 last = n > kept ? prefix : ~0ull;
    EACH_THREAD(t) {
        for (int k = t; k < n; k += BLOCK_SIZE) if (mine[k] <= last) best[atomicAdd(&at, 1)] = mine[k];
    }
    EACH_THREAD(t) { for (int k = kept + t; k < size; k += BLOCK_SIZE) best[k] = ~0ull; }
    SYNC;
    for (int span = 2; span <= size; span *= 2) {  // bitonic sort
        for (int step = span / 2; step > 0; step /= 2) {
            EACH_THREAD(t) {
                for (int k = t; k < size; k += BLOCK_SIZE) {
                    const int other = k ^ step;
                    if (other > k && (best[k] > best[other]) == !(k & span)) {
                        const u64 keep = best[k];
                        best[k] = best[other];
                        best[other] = keep;
                    }
                }
            }
            SYNC;
        }
    }
    for (int start = 0; start < kept; start += SCAN_THREADS) {  // in order, without the boxes that are dropped
        EACH_THREAD(t) {
            float box[9];
            part[t] = start + t < kept && box_at(plan, task, (int)(u32)best[start + t], box);
        }
        SYNC;
        SCAN_PARTS(part)
        EACH_THREAD(t) {
            if (part[t] != (t ? part[t - 1] : 0)) {
                const int place = (int)(u32)best[start + t];
                const u64 to = (u64)BLOCK_X * plan->top_k + before + part[t] - 1;
                box_at(plan, task, place, boxes + to * 9);
                scores[to] = score_of(task->hm[place]);
                labels[to] = task->first_label + place / cells;
            }
        }
        SYNC;
        EACH_THREAD(t) { if (t == 0) before += part[SCAN_THREADS - 1]; }
        SYNC;
    }
    EACH_THREAD(t) { if (t == 0) found[BLOCK_X] = before; }
}

// ---- suppression (kd3d/geometry/nms_kernel.py) ----

// Area in common of two boxes (x, y, length, width, yaw): b clipped by the sides of a, in a's frame.
APART double common_area(const double* a, const double* b) {
    double from[16], to[16];
    double c, s;
    sincos(a[4], &s, &c);
    const double dx = b[0] - a[0], dy = b[1] - a[1], x = dx * c + dy * s, y = dy * c - dx * s;
    sincos(b[4] - a[4], &s, &c);
    for (int i = 0; i < 4; ++i) {
        const double along = b[2] * (i == 0 || i == 3 ? 0.5 : -0.5), across = b[3] * (i < 2 ? 0.5 : -0.5);
        from[2 * i] = x + along * c - across * s;
        from[2 * i + 1] = y + along * s + across * c;
    }
    int count = 4;
    for (int side = 0; side < 4; ++side) {
        const int axis = side / 2;
        const double sign = side % 2 ? -1.0 : 1.0, half = a[2 + axis] / 2;
        int left = 0;
        for (int i = 0; i < count; ++i) {
            const int j = i + 1 < count ? i + 1 : 0;
            const double here = half - sign * from[2 * i + axis], there = half - sign * from[2 * j + axis];
            if (here >= 0 && left < 8) {
                to[2 * left] = from[2 * i];
                to[2 * left++ + 1] = from[2 * i + 1];
            }
            if ((here >= 0) != (there >= 0) && left < 8) {
                const double part = here / (here - there);
                to[2 * left] = from[2 * i] + part * (from[2 * j] - from[2 * i]);
                to[2 * left++ + 1] = from[2 * i + 1] + part * (from[2 * j + 1] - from[2 * i + 1]);
            }
        }
        count = left;
        for (int i = 0; i < 2 * left; ++i) from[i] = to[i];
    }
    double twice = 0;
    for (int i = 0; i < count; ++i) {
        const int j = i + 1 < count ? i + 1 : 0;
        twice += from[2 * i] * from[2 * j + 1] - from[2 * i + 1] * from[2 * j];
    }
    return fmax(twice / 2, 0.0);
}

DEVICE void load_bev(const float* box, double* bev) {
    bev[0] = box[0], bev[1] = box[1], bev[2] = fmax((double)box[3], 0.0), bev[3] = fmax((double)box[4], 0.0);
    bev[4] = box[6];
}

DEVICE bool overlap(const double* a, const double* b, int nms, double threshold) {
    const double x = a[0] - b[0], y = a[1] - b[1];
    if (nms == 2) return x * x + y * y <= threshold;
    const double far = hypot(a[2], a[3]) / 2 + hypot(b[2], b[3]) / 2;
    if (x * x + y * y > far * far) return false;
    const double common = common_area(a, b), whole = a[2] * a[3] + b[2] * b[3] - common;
    return (whole > 0 ? common / whole : 0.0) > threshold;
}

// hits [tasks, top_k, words]: bit j of row i is set where box i would remove box j > i. Blocks: words, words, tasks.
KERNEL nms_hits(const DecodePlan* plan, const TaskMaps* tasks, const float* boxes, const int* found, u64* hits,
                int words) {
    SHARED double theirs[64][5];
    const int n = min(found[BLOCK_Z], plan->pre), row = BLOCK_Y * 64, column = BLOCK_X * 64;
    if (column < row || row >= n || column >= n) return;
    const float* mine = boxes + (u64)BLOCK_Z * plan->top_k * 9;
    EACH_THREAD(t) { if (column + t < n) load_bev(mine + (column + t) * 9, theirs[t]); }
    SYNC;
    EACH_THREAD(t) {
        if (row + t < n) {
            double bev[5];
            load_bev(mine + (row + t) * 9, bev);
            u64 bits = 0;
            for (int k = 0; k < 64 && column + k < n; ++k)
                if (column + k > row + t && overlap(bev, theirs[k], plan->nms, tasks[BLOCK_Z].threshold))
                    bits |= 1ull << k;
            hits[((u64)BLOCK_Z * plan->top_k + row + t) * words + BLOCK_X] = bits;
        }
    }
}

// The boxes that survive, best first: [tasks, post] boxes, scores and labels, and how many. One block of 64 per task.
KERNEL nms_keep(const DecodePlan* plan, const u64* hits, const float* boxes, const float* scores, const int* labels,
                const int* found, float* out_boxes, float* out_scores, int* out_labels, int* kept, int words) {
    SHARED u64 removed[64], own[64], alive;
    SHARED int written;
    const u64 base = (u64)BLOCK_X * plan->top_k;
    const int n = min(found[BLOCK_X], plan->pre);
    EACH_THREAD(t) { removed[t] = 0; if (t == 0) written = 0; }
    SYNC;
    for (int word = 0; word * 64 < n && written < plan->post; ++word) {
        const int rows = min(64, n - word * 64), room = plan->post - written;
        EACH_THREAD(t) { own[t] = plan->nms && t < rows ? hits[(base + word * 64 + t) * words + word] : 0; }
        SYNC;
        EACH_THREAD(t) {
            if (t == 0) {
                u64 gone = removed[word], left = 0;
                int count = 0;
                for (int k = 0; k < rows && count < room; ++k)
                    if (!(gone >> k & 1)) { left |= 1ull << k; gone |= own[k]; ++count; }
                alive = left;
            }
        }
        SYNC;
        EACH_THREAD(t) {
            if (plan->nms && t > word && t < words && t * 64 < n)
                for (int k = 0; k < rows; ++k)
                    if (alive >> k & 1) removed[t] |= hits[(base + word * 64 + k) * words + t];
            if (alive >> t & 1) {
                const u64 to = (u64)BLOCK_X * plan->post + written + __popcll(alive & ((1ull << t) - 1));
                const u64 from = base + word * 64 + t;
                for (int k = 0; k < 9; ++k) out_boxes[to * 9 + k] = boxes[from * 9 + k];
                out_scores[to] = scores[from];
                out_labels[to] = labels[from];
            }
        }
        SYNC;
        EACH_THREAD(t) { if (t == 0) written += __popcll(alive); }
        SYNC;
    }
    EACH_THREAD(t) { if (t == 0) kept[BLOCK_X] = written; }
}

// ---- neighbour tables of sparse convolutions (kd3d/runtime/sparse_tables.py) ----

// A set of sites is a bit map over the volume. With the number of bits before each word, the place of a site among the
// sorted ones takes one count of bits: as quick as a hash table, and always the same.

struct Volume { int batches, z, y, x; };
struct Window { int kernel[3], stride[3], padding[3]; };

DEVICE u32 site_code(const Volume* v, int batch, int z, int y, int x) {
    return (u32)((((u64)batch * v->z + z) * v->y + y) * v->x + x);
}

DEVICE int site_rank(const u32* bits, const int* before, const int* sums, u32 code) {
    return scanned(before, sums, (int)(code / 32)) + __popc(bits[code / 32] & ((1u << code % 32) - 1));
}

// sites [N, 4] int32 (batch, z, y, x).
KERNEL site_bits(const Volume* volume, const int* sites, const int* count, u32* bits, int capacity) {
    EACH_ITEM(i, capacity) {
        if (i < *count) {
            const u32 code = site_code(volume, sites[4 * i], sites[4 * i + 1], sites[4 * i + 2], sites[4 * i + 3]);
            atomicOr(bits + code / 32, 1u << code % 32);
        }
    }
}

KERNEL bit_counts(const u32* bits, int* counts, int words) {
    EACH_ITEM(i, words) { counts[i] = __popc(bits[i]); }
}

// Which input is the site of each rank; of equal sites the first. index is INT_MAX or more than any index.
KERNEL site_index(const Volume* volume, const int* sites, const int* count, const u32* bits, const int* before,
                  const int* sums, int* index, int capacity) {
    EACH_ITEM(i, capacity) {
        if (i < *count) {
            const u32 code = site_code(volume, sites[4 * i], sites[4 * i + 1], sites[4 * i + 2], sites[4 * i + 3]);
            atomicMin(index + site_rank(bits, before, sums, code), i);
        }
    }
}

// Marks each output site that any input falls into.
KERNEL strided_bits(const Volume* out, const Window* window, const int* sites, const int* count, u32* bits,
                    int capacity) {
    EACH_ITEM(i, capacity) {
        if (i < *count) {
            const int size[3] = {out->z, out->y, out->x};
            int first[3], last[3];
            for (int axis = 0; axis < 3; ++axis) {
                const int top = sites[4 * i + 1 + axis] + window->padding[axis], stride = window->stride[axis];
                first[axis] = max(0, top - window->kernel[axis] + stride) / stride;
                last[axis] = min(size[axis] - 1, top / stride);
            }
            for (int z = first[0]; z <= last[0]; ++z)
                for (int y = first[1]; y <= last[1]; ++y)
                    for (int x = first[2]; x <= last[2]; ++x) {
                        const u32 code = site_code(out, sites[4 * i], z, y, x);
                        atomicOr(bits + code / 32, 1u << code % 32);
                    }
        }
    }
}

// The marked sites in ascending order, as far as there is room.
KERNEL strided_sites(const Volume* out, const u32* bits, const int* before, const int* sums, int* sites, int words,
                     int capacity) {
    EACH_ITEM(i, words) {
        int at = bits[i] ? scanned(before, sums, i) : 0;
        for (int bit = 0; bit < 32; ++bit)
            if (bits[i] >> bit & 1 && at < capacity) {
                u32 code = (u32)i * 32 + bit;
                sites[4 * at + 3] = code % out->x, code /= out->x;
                sites[4 * at + 2] = code % out->y, code /= out->y;
                sites[4 * at + 1] = code % out->z;
                sites[4 * at++] = code / out->z;
            }
    }
}

// table [capacity, K] int32: the input that each tap of each output reads; *count where there is none. Outputs along x.
KERNEL table_fill(const Volume* volume, const Window* window, const int* count, const u32* bits, const int* before,
                  const int* sums, const int* index, const int* outputs, const int* out_count, int* table,
                  int capacity) {
    const int taps = window->kernel[0] * window->kernel[1] * window->kernel[2];
    EACH_ITEM(i, capacity * taps) {
        const int m = i / taps, tap = i % taps;
        if (m < *out_count) {
            const int kx = window->kernel[2], ky = window->kernel[1];
            const int z = outputs[4 * m + 1] * window->stride[0] - window->padding[0] + tap / (kx * ky);
            const int y = outputs[4 * m + 2] * window->stride[1] - window->padding[1] + tap / kx % ky;
            const int x = outputs[4 * m + 3] * window->stride[2] - window->padding[2] + tap % kx;
            int input = *count;
            if (z >= 0 && z < volume->z && y >= 0 && y < volume->y && x >= 0 && x < volume->x) {
                const u32 code = site_code(volume, outputs[4 * m], z, y, x);
                if (bits[code / 32] >> code % 32 & 1) input = index[site_rank(bits, before, sums, code)];
            }
            table[i] = input;
        }
    }
}
