// Reads a buffer once with all OpenMP threads: what this machine's memory gives a kernel that
// reads its weights in order. Returns a sum, so that nothing is left out.
#include <cstdint>

extern "C" uint64_t read_all(const uint64_t* data, int64_t words) {
  uint64_t sum = 0;
#pragma omp parallel for simd schedule(static) reduction(+ : sum)
  for (int64_t i = 0; i < words; ++i) sum += data[i];
  return sum;
}
