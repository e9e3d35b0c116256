// Sixteen float32 numbers at a time: AVX-512 registers, and how they are read, written and rounded.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <initializer_list>

namespace {


constexpr int LANES = 16;       // outputs in a block; also the tokens of a page
constexpr int MOST_TOKENS = 8;  // tokens that share one pass over a block of weights
using bf16 = uint16_t;

inline __m512 widen(const bf16* p) {
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}

inline void narrow(__m512 x, bf16* p) { _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(x)); }

inline __m512 exp_lanes(__m512 x) {  // e^x to 2e-7: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]
    x = _mm512_max_ps(x, _mm512_set1_ps(-87.f));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693147182f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-1.9046542e-9f), r);
    __m512 p = _mm512_set1_ps(1.f / 720);
    for (float c : {1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1.f, 1.f}) p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    return _mm512_scalef_ps(p, n);
}

}  // namespace
