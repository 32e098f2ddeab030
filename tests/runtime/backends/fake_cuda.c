// A CUDA driver that is none: a libcuda.so.1 for the real pycuda, with the driver's rules for contexts, captures and
// lifetimes as its documentation states them. The "GPU" is this process: its memory is malloc's, what is put on a
// stream is done at once, a kernel is only counted. It says nothing of a device.
//
// What is not here cannot be called: the process would end with "undefined symbol". Names in fake_ are the tests' own.
#include <cuda.h>
#include <stdlib.h>
#include <string.h>

enum kind { HOST, DEVICE, STREAM, EVENT, MODULE, GRAPH, EXECUTABLE, KINDS };
enum { DEVICES = 2, DEPTH = 64, WORKS = 256, RUBBISH = 0xa5 };
static const size_t MEMORY = (size_t)1 << 30;

// A call of the host, a copy, or (from nowhere) a fill.
struct work {
  CUhostFn call;
  void *to;
  const void *from;
  size_t size;
  unsigned char value;
};
struct CUgraph_st {
  int works;
  struct work work[WORKS];
};
struct CUstream_st {
  unsigned flags;
  CUgraph captures;
  int is_invalidated;
};
struct CUevent_st {
  int is_recorded;
};
struct CUctx_st {
  int references;
};

_Atomic long fake_live[KINDS], fake_launches;
// What a kernel did wrong: the answer to every call in a context from then on.
CUresult fake_lost;
// Whether the GPUs share the memory of the processor, as a Jetson's.
int fake_integrated;
static struct CUctx_st primary[DEVICES];
static CUstream _Atomic capturing_blocking;
static __thread CUcontext stack[DEPTH];
static __thread int depth;
static __thread CUstream capturing;
static char failing[64];
static long calls_until_failure;
static CUresult failure;

// The function whose call is the n-th from now (1: the next) of those with such names fails from then on.
void fake_fail(const char *prefix, long n, CUresult status) {
  strncpy(failing, prefix, sizeof failing - 1);
  calls_until_failure = n;
  failure = status;
}
int fake_depth(void) { return depth; }
int fake_references(void) { return primary[0].references + primary[1].references; }

// Rules: what a function answers before it does anything.
static CUresult anywhere(const char *name) {
  if (calls_until_failure == 0 || strncmp(name, failing, strlen(failing)) != 0) return CUDA_SUCCESS;
  if (calls_until_failure > 1) return calls_until_failure--, CUDA_SUCCESS;
  strncpy(failing, name, sizeof failing - 1);
  return failure;
}
static CUresult in_context(const char *name) {
  if (depth == 0) return CUDA_ERROR_INVALID_CONTEXT;
  if (stack[depth - 1]->references == 0) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  return fake_lost != CUDA_SUCCESS ? fake_lost : anywhere(name);
}
// What may wait is forbidden to a thread that captures, and spoils what it captures.
static CUresult may_wait(const char *name) {
  if (capturing == NULL) return in_context(name);
  capturing->is_invalidated = 1;
  return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}
// The legacy stream waits for streams that block, which one that captures does not allow.
static CUresult on_legacy_stream(const char *name) {
  if (capturing_blocking == NULL) return may_wait(name);
  capturing_blocking->is_invalidated = 1;
  return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
}

static void *make(enum kind kind, size_t size) {
  fake_live[kind]++;
  return kind == HOST || kind == DEVICE ? memset(malloc(size), RUBBISH, size) : calloc(1, size);
}
static void release(enum kind kind, void *made) {
  fake_live[kind]--;
  free(made);
}
static CUresult put(CUstream stream, struct work work) {
  if (stream == NULL) return CUDA_ERROR_INVALID_HANDLE;
  if (stream->captures != NULL) {
    if (stream->captures->works == WORKS) return CUDA_ERROR_OUT_OF_MEMORY;
    stream->captures->work[stream->captures->works++] = work;
  } else if (work.call != NULL) work.call(work.to);
  else if (work.from != NULL) memmove(work.to, work.from, work.size);
  else memset(work.to, work.value, work.size);
  return CUDA_SUCCESS;
}
static void count_launch(void *nothing) { fake_launches++; }

#define DRIVER(rule, function, arguments, ...) \
  CUresult function arguments {                \
    CUresult status = rule(__func__);          \
    if (status != CUDA_SUCCESS) return status; \
    __VA_ARGS__;                               \
    return CUDA_SUCCESS;                       \
  }
#define UNLESS(condition, status) if (!(condition)) return CUDA_ERROR_##status

DRIVER(anywhere, cuInit, (unsigned flags), )
DRIVER(anywhere, cuDriverGetVersion, (int *version), *version = 12060)
DRIVER(anywhere, cuDeviceGetCount, (int *count), *count = DEVICES)
DRIVER(anywhere, cuDeviceGet, (CUdevice *device, int index), *device = index)
DRIVER(anywhere, cuDeviceGetName, (char *name, int size, CUdevice device), strncpy(name, "Fake GPU", size))
DRIVER(anywhere, cuDeviceComputeCapability, (int *major, int *minor, CUdevice device), *major = 8, *minor = 7)
DRIVER(anywhere, cuDeviceGetAttribute, (int *value, CUdevice_attribute attribute, CUdevice device),
       *value = attribute == CU_DEVICE_ATTRIBUTE_INTEGRATED ? fake_integrated : 8)
CUresult cuGetErrorName(CUresult status, const char **name) {
  *name = status == CUDA_ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "an error of the fake driver";
  return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult status, const char **text) { return cuGetErrorName(status, text); }

DRIVER(anywhere, cuDevicePrimaryCtxRetain, (CUcontext *context, CUdevice device),
       primary[device].references++; *context = &primary[device])
DRIVER(anywhere, cuDevicePrimaryCtxRelease, (CUdevice device),
       UNLESS(primary[device].references > 0, INVALID_CONTEXT); primary[device].references--)
DRIVER(anywhere, cuCtxPushCurrent, (CUcontext context),
       UNLESS(context->references > 0, CONTEXT_IS_DESTROYED); UNLESS(depth < DEPTH, OUT_OF_MEMORY);
       stack[depth++] = context)
DRIVER(anywhere, cuCtxPopCurrent, (CUcontext *context), UNLESS(depth > 0, INVALID_CONTEXT); *context = stack[--depth])
DRIVER(may_wait, cuCtxSynchronize, (void), )
DRIVER(anywhere, cuCtxGetCurrent, (CUcontext *context), *context = depth == 0 ? NULL : stack[depth - 1])

DRIVER(may_wait, cuMemHostAlloc, (void **made, size_t size, unsigned flags),
       UNLESS(size <= MEMORY, OUT_OF_MEMORY); *made = make(HOST, size))
// What is taken of it is not counted.
DRIVER(in_context, cuMemGetInfo, (size_t *free, size_t *total), *free = *total = MEMORY)
DRIVER(may_wait, cuMemAlloc, (CUdeviceptr *made, size_t size),
       UNLESS(size <= MEMORY, OUT_OF_MEMORY); *made = (CUdeviceptr)make(DEVICE, size))
DRIVER(may_wait, cuMemFreeHost, (void *made), release(HOST, made))
DRIVER(may_wait, cuMemFree, (CUdeviceptr made), release(DEVICE, (void *)made))
DRIVER(on_legacy_stream, cuMemsetD8, (CUdeviceptr to, unsigned char value, size_t size),
       memset((void *)to, value, size))
DRIVER(in_context, cuMemsetD8Async, (CUdeviceptr to, unsigned char value, size_t size, CUstream stream),
       return put(stream, (struct work){.to = (void *)to, .value = value, .size = size}))
DRIVER(in_context, cuMemcpyHtoDAsync, (CUdeviceptr to, const void *from, size_t size, CUstream stream),
       return put(stream, (struct work){.to = (void *)to, .from = from, .size = size}))
DRIVER(in_context, cuMemcpyDtoHAsync, (void *to, CUdeviceptr from, size_t size, CUstream stream),
       return put(stream, (struct work){.to = to, .from = (void *)from, .size = size}))
DRIVER(in_context, cuLaunchHostFunc, (CUstream stream, CUhostFn call, void *data),
       return put(stream, (struct work){.call = call, .to = data}))

DRIVER(may_wait, cuModuleLoad, (CUmodule *module, const char *path), *module = make(MODULE, 1))
DRIVER(may_wait, cuModuleUnload, (CUmodule module), release(MODULE, module))
DRIVER(in_context, cuModuleGetFunction, (CUfunction *function, CUmodule module, const char *name),
       *function = (CUfunction)module)
DRIVER(in_context, cuFuncSetBlockShape, (CUfunction function, int x, int y, int z), )
DRIVER(in_context, cuLaunchKernel,
       (CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
        unsigned block_z, unsigned shared, CUstream stream, void **arguments, void **extra),
       UNLESS(grid_x * grid_y * grid_z * block_x * block_y * block_z > 0, INVALID_VALUE);
       return put(stream, (struct work){.call = count_launch}))

DRIVER(in_context, cuStreamCreate, (CUstream *stream, unsigned flags),
       *stream = make(STREAM, sizeof **stream); (*stream)->flags = flags)
DRIVER(in_context, cuStreamDestroy, (CUstream stream), release(STREAM, stream))
DRIVER(may_wait, cuStreamSynchronize, (CUstream stream), )
DRIVER(in_context, cuEventCreate, (CUevent *event, unsigned flags), *event = make(EVENT, sizeof **event))
DRIVER(in_context, cuEventDestroy, (CUevent event), release(EVENT, event))
DRIVER(in_context, cuEventRecord, (CUevent event, CUstream stream), event->is_recorded = 1)
DRIVER(may_wait, cuEventSynchronize, (CUevent event), )
DRIVER(in_context, cuEventElapsedTime, (float *ms, CUevent began, CUevent ended),
       UNLESS(began->is_recorded && ended->is_recorded, INVALID_HANDLE); *ms = 0.25f)

DRIVER(in_context, cuStreamBeginCapture, (CUstream stream, CUstreamCaptureMode mode),
       UNLESS(mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL && capturing == NULL, ILLEGAL_STATE);
       stream->captures = make(GRAPH, sizeof *stream->captures); stream->is_invalidated = 0; capturing = stream;
       if ((stream->flags & CU_STREAM_NON_BLOCKING) == 0) capturing_blocking = stream)
CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) {
  UNLESS(capturing == stream, ILLEGAL_STATE);
  *graph = stream->captures;
  stream->captures = NULL;
  capturing = capturing_blocking = NULL;
  CUresult status = stream->is_invalidated ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : in_context(__func__);
  if (status != CUDA_SUCCESS) {
    release(GRAPH, *graph);
    *graph = NULL;
  }
  return status;
}
DRIVER(anywhere, cuGraphDestroy, (CUgraph graph), release(GRAPH, graph))
DRIVER(in_context, cuGraphInstantiateWithFlags, (CUgraphExec *executable, CUgraph graph, unsigned long long flags),
       *executable = memcpy(make(EXECUTABLE, sizeof *graph), graph, sizeof *graph))
DRIVER(in_context, cuGraphExecDestroy, (CUgraphExec executable), release(EXECUTABLE, executable))
DRIVER(in_context, cuGraphLaunch, (CUgraphExec executable, CUstream stream),
       const struct CUgraph_st *graph = (struct CUgraph_st *)executable;
       for (int i = 0; i < graph->works; i++) put(stream, graph->work[i]))
