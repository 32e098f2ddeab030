// From an RGB image to one of the size that a model takes: what jepa_runtime.imaging.fit does on a CPU.
//
// A thread makes one pixel. preprocess.py describes the launch.

struct Job {
  const unsigned char* image;  // [height * factor, width * factor, 3]
  unsigned char* frame;        // [out_height, out_width, 3]
  int width, height;           // of the image in squares of `factor` x `factor` pixels, the first step of scaling
  int factor;
  int averaged;                // second step: 1 averages areas, 0 interpolates bilinearly
  int out_width, out_height;
};
static_assert(sizeof(Job) == 40, "preprocess.py writes this structure");

// What one position of the frame covers on one axis of the image, in units of 1 / `block` of a square. Bilinear
// interpolation covers as much as one square, wherever it lies. Integers, so that no position is off.
struct Window {
  int begin, end, block;

  __device__ Window(int position, int out_size, int size, bool averaged) : block(2 * out_size) {
    if (averaged) {
      begin = 2 * position * size;
      end = begin + 2 * size;
    } else {
      begin = min(max((2 * position + 1) * size - out_size, 0), block * (size - 1));
      end = begin + block;
    }
  }

  __device__ int first() const { return begin / block; }
  __device__ int last() const { return (end - 1) / block; }
  __device__ float weight(int square) const {
    const int covered = min((square + 1) * block, end) - max(square * block, begin);
    return static_cast<float>(covered) / static_cast<float>(end - begin);
  }
};

__device__ void add_square(const Job& job, int row, int column, float weight, float (&levels)[3]) {
  int sum[3] = {0, 0, 0};
  const size_t pixels = static_cast<size_t>(job.width) * job.factor;
  for (int y = row * job.factor; y < (row + 1) * job.factor; ++y) {
    const unsigned char* pixel = job.image + 3 * (y * pixels + static_cast<size_t>(column) * job.factor);
    for (int x = 0; x < job.factor; ++x, pixel += 3) {
      for (int c = 0; c < 3; ++c) sum[c] += pixel[c];
    }
  }
  const float share = 1.0f / static_cast<float>(job.factor * job.factor);
  for (int c = 0; c < 3; ++c) {
    // OpenCV rounds halves up where it averages four pixels, and to even elsewhere.
    const float exact = static_cast<float>(sum[c]) * share;
    levels[c] += weight * (job.factor == 2 ? floorf(exact + 0.5f) : rintf(exact));
  }
}

extern "C" __global__ void __launch_bounds__(256) scale(const Job job) {
  const int x = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const int y = static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y);
  if (x >= job.out_width || y >= job.out_height) return;
  const Window rows(y, job.out_height, job.height, job.averaged);
  const Window columns(x, job.out_width, job.width, job.averaged);
  float levels[3] = {0.0f, 0.0f, 0.0f};
  for (int row = rows.first(); row <= rows.last(); ++row) {
    float line[3] = {0.0f, 0.0f, 0.0f};
    for (int column = columns.first(); column <= columns.last(); ++column) {
      add_square(job, row, column, columns.weight(column), line);
    }
    for (int c = 0; c < 3; ++c) levels[c] += rows.weight(row) * line[c];
  }
  unsigned char* pixel = job.frame + 3 * (static_cast<size_t>(y) * job.out_width + x);
  for (int c = 0; c < 3; ++c) pixel[c] = static_cast<unsigned char>(rintf(levels[c]));
}
