/* A driver's libnvidia-ml.so.1 that is none: two GPUs, of which the second is older and tells less, and more that
   others alone may use. The names and
   structures are those of NVIDIA's NVML API reference; what the GPUs tell, tests set. */

enum { SUCCESS = 0, UNINITIALIZED = 1, NOT_SUPPORTED = 3, NO_PERMISSION = 4, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15 };

int fake_count = 2, fake_loaded = 1, fake_lost = 0, fake_open = 0;
unsigned long long fake_millijoules = 0, fake_reasons = 1;

static int gpus[2];

static int query(void *gpu, int older_too) {
  if (!fake_open)
    return UNINITIALIZED;
  if (fake_lost)
    return GPU_IS_LOST;
  return gpu == &gpus[0] || older_too ? SUCCESS : NOT_SUPPORTED;
}

int nvmlInitWithFlags(unsigned flags) {
  (void)flags;
  if (!fake_loaded)
    return DRIVER_NOT_LOADED;
  fake_open++;
  return SUCCESS;
}

int nvmlShutdown(void) {
  fake_open--;
  return fake_lost ? GPU_IS_LOST : SUCCESS;
}

const char *nvmlErrorString(int code) {
  (void)code;
  return "an error of the driver's own";
}

int nvmlDeviceGetCount_v2(unsigned *count) {
  *count = (unsigned)fake_count;
  return fake_open ? SUCCESS : UNINITIALIZED;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **gpu) {
  if (index > 1)
    return NO_PERMISSION;
  *gpu = &gpus[index];
  return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *gpu, unsigned rates[2]) {
  rates[0] = 40, rates[1] = 7;
  return query(gpu, 1);
}

int nvmlDeviceGetMemoryInfo(void *gpu, unsigned long long total_free_used[3]) {
  total_free_used[0] = 8000000000ULL, total_free_used[1] = 6500000000ULL, total_free_used[2] = 1500000000ULL;
  return query(gpu, 1);
}

int nvmlDeviceGetPowerUsage(void *gpu, unsigned *milliwatts) {
  *milliwatts = 62500;
  return query(gpu, 0);
}

int nvmlDeviceGetTotalEnergyConsumption(void *gpu, unsigned long long *millijoules) {
  *millijoules = fake_millijoules;
  return query(gpu, 0);
}

int nvmlDeviceGetClockInfo(void *gpu, int domain, unsigned *mhz) {
  *mhz = domain == 1 ? 1980 : 7000; /* 1: the multiprocessors */
  return query(gpu, 1);
}

int nvmlDeviceGetTemperature(void *gpu, int sensor, unsigned *celsius) {
  (void)sensor;
  *celsius = 61;
  return query(gpu, 1);
}

int nvmlDeviceGetCurrentClocksEventReasons(void *gpu, unsigned long long *reasons) {
  *reasons = fake_reasons;
  return query(gpu, 0);
}
