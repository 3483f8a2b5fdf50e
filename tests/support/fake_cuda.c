/* CUDA's runtime and driver in host memory, as far as kd3d.runtime.device calls them. One library plays both. */
#define _POSIX_C_SOURCE 200809L
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef void (*host_fn)(void *);
typedef struct { int kind, byte; void *to; const void *from; size_t size; host_fn fn; } op;
typedef struct { int count; op ops[256]; } graph;
typedef struct { double ms; int happened; } event;

static size_t limit = (size_t)1 << 33, used = 0;
static graph *capture = NULL;
static char calls[1 << 16];
static int driver_code = 0;

static void said(const char *name) { if (strlen(calls) + strlen(name) + 2 < sizeof calls) { strcat(calls, name); strcat(calls, " "); } }
static void run(const op *o) {
    if (o->kind == 0) memcpy(o->to, o->from, o->size);
    if (o->kind == 1) memset(o->to, o->byte, o->size);
    if (o->kind == 2) o->fn(o->to);
}
static int put(op o) { if (capture) { capture->ops[capture->count++] = o; return 0; } run(&o); return 0; }

/* what the tests look at and turn */
const char *fake_calls(void) { return calls; }
void fake_reset(void) { calls[0] = 0; limit = (size_t)1 << 33; driver_code = 0; capture = NULL; }
void fake_limit(size_t bytes) { limit = used + bytes; }
void fake_driver(int code) { driver_code = code; }
size_t fake_used(void) { return used; }

static int take(void **p, size_t size) {
    if (used + size > limit) return 2;
    char *block; if (posix_memalign((void **)&block, 256, size + 256)) return 2;
    *(size_t *)block = size; used += size; *p = block + 256; return 0;
}
static int give(void *p) { if (p) { char *b = (char *)p - 256; used -= *(size_t *)b; free(b); } return 0; }

const char *cudaGetErrorName(int code) { return code == 2 ? "cudaErrorMemoryAllocation" : code == 35 ? "cudaErrorInsufficientDriver" : "cudaErrorFake"; }
int cudaSetDevice(int i) { said("cudaSetDevice"); return driver_code ? driver_code : i > 0 ? 101 : 0; }
int cudaFree(void *p) { said("cudaFree"); return give(p); }
int cudaMalloc(void **p, size_t n) { said("cudaMalloc"); return take(p, n); }
int cudaHostAlloc(void **p, size_t n, unsigned flags) { said(flags == 2 ? "cudaHostAllocMapped" : "cudaHostAlloc"); return take(p, n); }
int cudaHostGetDevicePointer(void **d, void *h, unsigned f) { (void)f; *d = h; return 0; }
int cudaFreeHost(void *p) { said("cudaFreeHost"); return give(p); }
int cudaMemcpyAsync(void *to, const void *from, size_t n, int kind, void *s) { said(kind == 1 ? "toDevice" : kind == 2 ? "toHost" : "copy?"); (void)s; return put((op){0, 0, to, from, n, NULL}); }
int cudaMemsetAsync(void *to, int byte, size_t n, void *s) { said("cudaMemsetAsync"); (void)s; return put((op){1, byte, to, NULL, n, NULL}); }
int cudaLaunchHostFunc(void *s, host_fn fn, void *data) { (void)s; return put((op){2, 0, data, NULL, 0, fn}); }
int cudaStreamCreateWithFlags(void **s, unsigned flags) { if (flags != 1) return 1; *s = malloc(1); return 0; }
int cudaStreamSynchronize(void *s) { (void)s; said("cudaStreamSynchronize"); return capture ? 900 : 0; }
int cudaStreamDestroy(void *s) { free(s); return 0; }
int cudaEventCreate(void **e) { *e = calloc(1, sizeof(event)); return 0; }
int cudaEventDestroy(void *e) { free(e); return 0; }
int cudaEventRecord(void *e, void *s) { (void)s; struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); ((event *)e)->ms = t.tv_sec * 1e3 + t.tv_nsec / 1e6; ((event *)e)->happened = 1; return 0; }
int cudaEventSynchronize(void *e) { return ((event *)e)->happened ? 0 : 600; }
int cudaEventElapsedTime(float *ms, void *a, void *b) { *ms = (float)(((event *)b)->ms - ((event *)a)->ms); return 0; }
int cudaDeviceGetAttribute(int *v, int number, int device) { (void)device; *v = number == 75 ? 8 : number == 76 ? 7 : number == 18 ? 1 : -1; return 0; }
int cudaDriverGetVersion(int *v) { *v = 12060; return 0; }
int cudaMemGetInfo(size_t *free_, size_t *total) { *free_ = limit - used; *total = limit; return 0; }

int cuInit(unsigned flags) { (void)flags; return driver_code; }
int cuGetErrorName(int code, const char **text) { *text = code == 100 ? "CUDA_ERROR_NO_DEVICE" : code == 500 ? "CUDA_ERROR_NOT_FOUND" : "CUDA_ERROR_FAKE"; return 0; }
int cuDeviceGet(int *d, int index) { *d = index; return 0; }
int cuDeviceGetName(char *text, int n, int d) { (void)d; snprintf(text, n, "Fake Orin"); return 0; }
int cuDeviceGetAttribute(int *v, int number, int d) { return cudaDeviceGetAttribute(v, number, d); }
int cuDriverGetVersion(int *v) { return cudaDriverGetVersion(v); }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t n, void *s) { return cudaMemcpyAsync((void *)to, from, n, 1, s); }
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t n, void *s) { return cudaMemcpyAsync(to, (void *)from, n, 2, s); }
int cuMemsetD8Async(uint64_t to, unsigned char byte, size_t n, void *s) { return cudaMemsetAsync((void *)to, byte, n, s); }
int cuStreamBeginCapture_v2(void *s, int mode) { (void)s; if (mode != 1) return 1; said("capture"); capture = calloc(1, sizeof(graph)); return 0; }
int cuStreamEndCapture(void *s, void **g) { (void)s; *g = capture; capture = NULL; return *g ? 0 : 901; }
int cuGraphInstantiateWithFlags(void **ready, void *g, uint64_t flags) { if (flags) return 1; *ready = malloc(sizeof(graph)); memcpy(*ready, g, sizeof(graph)); return 0; }
int cuGraphDestroy(void *g) { free(g); return 0; }
int cuGraphExecDestroy(void *g) { said("freeGraph"); free(g); return 0; }
int cuGraphLaunch(void *g, void *s) { (void)s; said("launchGraph"); for (int i = 0; i < ((graph *)g)->count; i++) run(&((graph *)g)->ops[i]); return 0; }
int cuModuleLoadData(void **m, const void *image) { if (memcmp(image, "CUBIN\0!", 7)) return 200; *m = malloc(1); return 0; }
int cuModuleUnload(void *m) { free(m); return 0; }
int cuModuleGetFunction(void **f, void *m, const char *name) { (void)m; if (strcmp(name, "scale")) return 500; *f = (void *)"scale"; return 0; }
int cuFuncSetAttribute(void *f, int attribute, int value) { (void)f; said("cuFuncSetAttribute"); return attribute == 8 && value > (48 << 10) ? 0 : 1; }
int cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void *s, void **args, void **extra) {
    (void)f; (void)s; (void)shared; (void)extra;
    float *x = (float *)*(uint64_t *)args[0]; int n = *(int *)args[1]; float factor = *(float *)args[2];
    unsigned threads = gx * gy * gz * bx * by * bz;
    for (unsigned i = 0; i < threads && (int)i < n; i++) x[i] *= factor;
    return 0;
}
