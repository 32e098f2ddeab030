// Runs a CUDA kernel on a CPU, thread after thread: an emulation, for what a kernel computes and which bytes it
// touches. It says nothing of a device. Compiled with the sanitizers, which end it at the first byte out of bounds.
//
// Reads jobs from standard input: grid and block (6 int32), the bytes of the argument, of the image and of the frame
// (3 int64), the argument, the image. Answers each with the frame.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

struct Axes {
  unsigned x, y, z;
};
static Axes blockIdx, blockDim, threadIdx;
#define __global__
#define __device__
#define __launch_bounds__(threads)
using std::max;
using std::min;

#include SOURCE

struct Head {
  int32_t grid[3], block[3];
};
struct Sizes {
  int64_t argument, image, frame;
};

static void read(void* into, size_t bytes) {
  if (std::fread(into, 1, bytes, stdin) != bytes) std::exit(0);
}

int main() {
  for (;;) {
    Head head;
    Sizes sizes;
    Job job;
    read(&head, sizeof head);
    read(&sizes, sizeof sizes);
    if (sizes.argument != sizeof job) {
      std::fprintf(stderr, "the argument has %lld bytes, not %zu\n", (long long)sizes.argument, sizeof job);
      return 1;
    }
    read(&job, sizeof job);
    // Exactly of the stated sizes: the memory around them is poisoned.
    std::vector<unsigned char> image(sizes.image), frame(sizes.frame, 0xA5);
    read(image.data(), image.size());
    job.image = image.data();
    job.frame = frame.data();
    blockDim = {unsigned(head.block[0]), unsigned(head.block[1]), unsigned(head.block[2])};
    for (blockIdx.y = 0; blockIdx.y < unsigned(head.grid[1]); ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < unsigned(head.grid[0]); ++blockIdx.x)
        for (threadIdx.y = 0; threadIdx.y < blockDim.y; ++threadIdx.y)
          for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x) scale(job);
    std::fwrite(frame.data(), 1, frame.size(), stdout);
    std::fflush(stdout);
  }
}
