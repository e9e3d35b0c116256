// y = x W^T with W in bfloat16 or 8 bits, packed so that one 64-byte load serves 16 outputs and no
// sum across lanes is ever needed. N tokens, I inputs, O outputs.
#pragma once

#include "vectors.h"

namespace {

// ---- the two kinds of weights: how a row of x is prepared, and what one step of a product does ----

struct Bf16 {
    static constexpr int DEPTH = 2;  // inputs that one lane takes at a time
    using Sum = __m512;
    static Sum zero() { return _mm512_setzero_ps(); }
    static Sum step(Sum sum, __m512i w, int32_t x) {
        return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(x), (__m512bh)w);
    }
    static Sum add(Sum a, Sum b) { return _mm512_add_ps(a, b); }
    static void prepare(const float* x, int32_t* row, float*, int I) {
        for (int i = 0; i < I; i += LANES) narrow(_mm512_loadu_ps(x + i), (bf16*)row + i);
    }
    static __m512 finish(Sum sum, const float*, const float*, int) { return sum; }
};

struct Int8 {
    static constexpr int DEPTH = 4;
    using Sum = __m512i;
    static Sum zero() { return _mm512_setzero_si512(); }
    static Sum step(Sum sum, __m512i w, int32_t x) {
        return _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(x));  // w + 128 unsigned, x signed
    }
    static Sum add(Sum a, Sum b) { return _mm512_add_epi32(a, b); }
    // x = scale * q, q in [-127, 127]; kept beside it: scale and 128 * sum(q).
    static void prepare(const float* x, int32_t* row, float* facts, int I) {
        __m512 top = _mm512_setzero_ps();
        for (int i = 0; i < I; i += LANES) top = _mm512_max_ps(top, _mm512_abs_ps(_mm512_loadu_ps(x + i)));
        float largest = _mm512_reduce_max_ps(top);
        float scale = largest / 127.f, inverse = largest > 0 ? 127.f / largest : 0.f;
        __m512i total = _mm512_setzero_si512();
        for (int i = 0; i < I; i += LANES) {
            __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), _mm512_set1_ps(inverse)));
            total = _mm512_add_epi32(total, q);
            _mm_storeu_si128((__m128i*)((int8_t*)row + i), _mm512_cvtsepi32_epi8(q));
        }
        facts[0] = scale;
        facts[1] = 128.f * _mm512_reduce_add_epi32(total);
    }
    static __m512 finish(Sum sum, const float* facts, const float* scales, int o) {
        __m512 y = _mm512_sub_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(facts[1]));
        return _mm512_mul_ps(_mm512_mul_ps(y, _mm512_set1_ps(facts[0])), _mm512_loadu_ps(scales + o));
    }
};

inline void put(float* y, __m512 value, bool add) {
    _mm512_storeu_ps(y, add ? _mm512_add_ps(_mm512_loadu_ps(y), value) : value);
}

// One token, one block: bound by reading weights, so four independent sums hide the latency.
template <class W>
void one_token(const __m512i* w, const int32_t* x, int steps, typename W::Sum& out) {
    auto a = W::zero(), b = W::zero(), c = W::zero(), d = W::zero();
    int s = 0;
    for (; s + 4 <= steps; s += 4) {
        a = W::step(a, _mm512_loadu_si512(w + s), x[s]);
        b = W::step(b, _mm512_loadu_si512(w + s + 1), x[s + 1]);
        c = W::step(c, _mm512_loadu_si512(w + s + 2), x[s + 2]);
        d = W::step(d, _mm512_loadu_si512(w + s + 3), x[s + 3]);
    }
    for (; s < steps; s++) a = W::step(a, _mm512_loadu_si512(w + s), x[s]);
    out = W::add(W::add(a, b), W::add(c, d));
}

// T tokens, two blocks: 2 T sums stay in registers while the weights pass once.
template <class W, int T>
void tile(const __m512i* w0, const __m512i* w1, const int32_t* x, int stride, int steps,
          typename W::Sum (&sums)[2][MOST_TOKENS]) {
    typename W::Sum s0[T], s1[T];
    for (int t = 0; t < T; t++) s0[t] = s1[t] = W::zero();
    for (int s = 0; s < steps; s++) {
        __m512i a = _mm512_loadu_si512(w0 + s), b = _mm512_loadu_si512(w1 + s);
        for (int t = 0; t < T; t++) {
            s0[t] = W::step(s0[t], a, x[t * stride + s]);
            s1[t] = W::step(s1[t], b, x[t * stride + s]);
        }
    }
    for (int t = 0; t < T; t++) sums[0][t] = s0[t], sums[1][t] = s1[t];
}

template <class W>
void tokens(int T, const __m512i* w0, const __m512i* w1, const int32_t* x, int stride, int steps,
            typename W::Sum (&sums)[2][MOST_TOKENS]) {
    switch (T) {
        case 1: one_token<W>(w0, x, steps, sums[0][0]); one_token<W>(w1, x, steps, sums[1][0]); break;
        case 2: tile<W, 2>(w0, w1, x, stride, steps, sums); break;
        case 3: tile<W, 3>(w0, w1, x, stride, steps, sums); break;
        case 4: tile<W, 4>(w0, w1, x, stride, steps, sums); break;
        case 5: tile<W, 5>(w0, w1, x, stride, steps, sums); break;
        case 6: tile<W, 6>(w0, w1, x, stride, steps, sums); break;
        case 7: tile<W, 7>(w0, w1, x, stride, steps, sums); break;
        default: tile<W, 8>(w0, w1, x, stride, steps, sums);
    }
}

// y = x W^T, or y += x W^T. `scratch` holds N prepared rows, `facts` two numbers a row.
template <class W>
void linear(const float* x, const void* packed, const float* scales, float* y, int N, int I, int O,
            bool add, int32_t* scratch, float* facts) {
    const int steps = I / W::DEPTH, blocks = O / LANES;
    const __m512i* weights = (const __m512i*)packed;
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int n = 0; n < N; n++) W::prepare(x + (size_t)n * I, scratch + (size_t)n * steps, facts + 2 * n, I);
#pragma omp for schedule(static)
        for (int pair = 0; pair < (blocks + 1) / 2; pair++) {
            const int block = 2 * pair, other = block + 1 < blocks ? block + 1 : block;
            for (int n = 0; n < N; n += MOST_TOKENS) {
                const int T = N - n < MOST_TOKENS ? N - n : MOST_TOKENS;
                typename W::Sum sums[2][MOST_TOKENS];
                tokens<W>(T, weights + (size_t)block * steps, weights + (size_t)other * steps,
                          scratch + (size_t)n * steps, steps, steps, sums);
                for (int half = 0; half < 1 + (other > block); half++)
                    for (int t = 0; t < T; t++) {
                        const int o = (block + half) * LANES;
                        put(y + (size_t)(n + t) * O + o,
                            W::finish(sums[half][t], facts + 2 * (n + t), scales, o), add);
                    }
            }
        }
    }
}

}  // namespace
