// From a camera's image, as it came, to the input tensor of an engine: colours, size and normalisation in one pass.
//
// It computes what jepa_runtime.imaging does on a CPU (to_rgb, then fit), and then level * scale + offset. A thread
// makes one pixel of the tensor. preprocess.py describes the launch, for an image whose layout was checked.

struct Job {
  const unsigned char* image;
  void* tensor;
  int step;                   // bytes from one row of the image to the next
  int width, height;          // of the image in squares of `factor` x `factor` pixels, the first step of scaling
  int factor;
  int averaged;               // second step: 1 averages areas, 0 interpolates bilinearly
  int out_width, out_height;  // of the tensor
  int pixel_bytes;
  int channels[3];            // bytes of red, green and blue in a pixel, or of luma, U and V in a pair of pixels
  int pixel_stride, row_stride, channel_stride;  // elements of the tensor
  float scale[3], offset[3];
};
static_assert(sizeof(Job) == 96, "preprocess.py writes this structure");

// What one position of the tensor covers on one axis of the image, in units of 1 / `block` of a square. Bilinear
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

struct Interleaved {
  static __device__ void add(const Job& job, const unsigned char* row, int column, int (&sum)[3]) {
    const unsigned char* pixel = row + static_cast<size_t>(column) * job.pixel_bytes;
    for (int c = 0; c < 3; ++c) sum[c] += pixel[job.channels[c]];
  }
};

// YUV 4:2:2, BT.601, limited range: OpenCV's coefficients, in 1 / 2^20 as it has them.
constexpr int FRACTION = 20;
__device__ constexpr int fixed(double coefficient) {
  return static_cast<int>(coefficient * (1 << FRACTION) + 0.5);
}

struct Paired {
  static __device__ void add(const Job& job, const unsigned char* row, int column, int (&sum)[3]) {
    const unsigned char* pair = row + static_cast<size_t>(column / 2) * 4;
    const int luma = fixed(1.164) * max(pair[job.channels[0] + column % 2 * 2] - 16, 0);
    const int u = pair[job.channels[1]] - 128;
    const int v = pair[job.channels[2]] - 128;
    sum[0] += level(luma + fixed(1.596) * v);
    sum[1] += level(luma - fixed(0.391) * u - fixed(0.813) * v);
    sum[2] += level(luma + fixed(2.018) * u);
  }
  static __device__ int level(int value) {
    return min(max((value + (1 << (FRACTION - 1))) >> FRACTION, 0), 255);
  }
};

template <typename Pixels>
__device__ void add_square(const Job& job, int row, int column, float weight, float (&levels)[3]) {
  int sum[3] = {0, 0, 0};
  for (int y = row * job.factor; y < (row + 1) * job.factor; ++y) {
    const unsigned char* line = job.image + static_cast<size_t>(y) * job.step;
    for (int x = column * job.factor; x < (column + 1) * job.factor; ++x) Pixels::add(job, line, x, sum);
  }
  const float share = 1.0f / static_cast<float>(job.factor * job.factor);
  for (int c = 0; c < 3; ++c) {
    // OpenCV rounds halves up where it averages four pixels, and to even elsewhere.
    const float exact = static_cast<float>(sum[c]) * share;
    levels[c] += weight * (job.factor == 2 ? floorf(exact + 0.5f) : rintf(exact));
  }
}

template <typename Pixels, typename Element>
__device__ void preprocess(const Job& job) {
  const int x = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const int y = static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y);
  if (x >= job.out_width || y >= job.out_height) return;
  const Window rows(y, job.out_height, job.height, job.averaged);
  const Window columns(x, job.out_width, job.width, job.averaged);
  float levels[3] = {0.0f, 0.0f, 0.0f};
  for (int row = rows.first(); row <= rows.last(); ++row) {
    float line[3] = {0.0f, 0.0f, 0.0f};
    for (int column = columns.first(); column <= columns.last(); ++column) {
      add_square<Pixels>(job, row, column, columns.weight(column), line);
    }
    for (int c = 0; c < 3; ++c) levels[c] += rows.weight(row) * line[c];
  }
  Element* pixel = static_cast<Element*>(job.tensor) + static_cast<size_t>(y) * job.row_stride +
                   static_cast<size_t>(x) * job.pixel_stride;
  for (int c = 0; c < 3; ++c) {
    pixel[static_cast<size_t>(c) * job.channel_stride] =
        static_cast<Element>(rintf(levels[c]) * job.scale[c] + job.offset[c]);
  }
}

#define ENTRY_POINT(name, Pixels, Element) \
  extern "C" __global__ void __launch_bounds__(256) name(const Job job) { preprocess<Pixels, Element>(job); }

ENTRY_POINT(interleaved_to_uint8, Interleaved, unsigned char)
ENTRY_POINT(interleaved_to_float32, Interleaved, float)
ENTRY_POINT(paired_to_uint8, Paired, unsigned char)
ENTRY_POINT(paired_to_float32, Paired, float)
