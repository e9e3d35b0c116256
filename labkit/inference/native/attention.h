// Attention over pages of 16 tokens. N tokens, H query heads, G key/value heads, K head width.
#pragma once

#include "vectors.h"

namespace {

// ---- the two kinds of pages: how 16 numbers are read and written, and what a token's scale is ----

struct Bf16Page {
    using Number = bf16;
    static __m512 load(const bf16* p) { return widen(p); }
    static float scale(const float*, int) { return 1.f; }
    static void store(__m512 x, float, bf16* p) { narrow(x, p); }
    static void keep(float, float*) {}
    static __m512 scaled(__m512 x, const float*) { return x; }
};

struct Int8Page {
    using Number = int8_t;
    static __m512 load(const int8_t* p) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
    }
    static float scale(const float* x, int K) {  // of one token and head: x = scale * q, |q| <= 127
        __m512 top = _mm512_set1_ps(1e-12f);
        for (int i = 0; i < K; i += LANES) top = _mm512_max_ps(top, _mm512_abs_ps(_mm512_loadu_ps(x + i)));
        return _mm512_reduce_max_ps(top) / 127.f;
    }
    static void store(__m512 x, float scale, int8_t* p) {
        __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(1.f / scale)));
        _mm_storeu_si128((__m128i*)p, _mm512_cvtsepi32_epi8(q));
    }
    static void keep(float scale, float* p) { *p = scale; }
    static __m512 scaled(__m512 x, const float* scales) { return _mm512_mul_ps(x, _mm512_loadu_ps(scales)); }
};

// One layer's pages: keys (P, G, K, 16), values (P, G, 16, K) and, with int8, scales (P, G, 16).
template <class P>
struct Pages {
    typename P::Number *keys, *values;
    float *key_scales, *value_scales;
    int G, K;

    int64_t row(int64_t page, int g) const { return (page * G + g) * LANES; }  // in units of a token's numbers
};

// Keys of a page lie transposed, (K, 16): one pass gives the scores of 16 tokens side by side. A token's
// scale is common to its K numbers, so it multiplies the score of its key and the probability of its value.
template <class P, int REPEAT>
void attend_head(const float* q, const Pages<P>& pages, int g, const int32_t* table, int length, float* scores,
                 float* out) {
    const int K = pages.K, used = (length + LANES - 1) / LANES, room = used * LANES;
    float top[REPEAT];
    for (int h = 0; h < REPEAT; h++) top[h] = -INFINITY;
    for (int p = 0; p < used; p++) {
        const int64_t at = pages.row(table[p], g);
        const typename P::Number* k = pages.keys + at * K;
        __m512 s[REPEAT];
        for (int h = 0; h < REPEAT; h++) s[h] = _mm512_setzero_ps();
        for (int i = 0; i < K; i++) {
            __m512 column = P::load(k + i * LANES);
            for (int h = 0; h < REPEAT; h++) s[h] = _mm512_fmadd_ps(_mm512_set1_ps(q[h * K + i]), column, s[h]);
        }
        const int left = length - p * LANES;
        const __mmask16 real = left >= LANES ? 0xFFFF : (1u << left) - 1;
        for (int h = 0; h < REPEAT; h++) {
            s[h] = _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), real, P::scaled(s[h], pages.key_scales + at));
            _mm512_storeu_ps(scores + h * room + p * LANES, s[h]);
            float most = _mm512_reduce_max_ps(s[h]);
            top[h] = most > top[h] ? most : top[h];
        }
    }
    for (int h = 0; h < REPEAT; h++) {
        __m512 total = _mm512_setzero_ps();
        float* row = scores + h * room;
        for (int p = 0; p < used; p++) {
            const int left = length - p * LANES;
            const __mmask16 real = left >= LANES ? 0xFFFF : (1u << left) - 1;
            __m512 e = _mm512_maskz_mov_ps(
                real, exp_lanes(_mm512_sub_ps(_mm512_loadu_ps(row + p * LANES), _mm512_set1_ps(top[h]))));
            _mm512_storeu_ps(row + p * LANES, P::scaled(e, pages.value_scales + pages.row(table[p], g)));
            total = _mm512_add_ps(total, e);
        }
        top[h] = 1.f / _mm512_reduce_add_ps(total);
    }
    for (int i = 0; i < K; i += LANES) {
        __m512 sum[REPEAT];
        for (int h = 0; h < REPEAT; h++) sum[h] = _mm512_setzero_ps();
        for (int s = 0; s < length; s++) {
            const typename P::Number* v = pages.values + (pages.row(table[s / LANES], g) + s % LANES) * K + i;
            __m512 part = P::load(v);
            for (int h = 0; h < REPEAT; h++)
                sum[h] = _mm512_fmadd_ps(_mm512_set1_ps(scores[h * room + s]), part, sum[h]);
        }
        for (int h = 0; h < REPEAT; h++)
            _mm512_storeu_ps(out + h * K + i, _mm512_mul_ps(sum[h], _mm512_set1_ps(top[h])));
    }
}

// Rotates queries and keys of qkv rows in place and writes keys and values to their places in the pages.
template <class P>
void rope_and_store(float* qkv, const float* cos, const float* sin, const int64_t* places, const Pages<P>& pages,
                    int N, int H) {
    const int G = pages.G, K = pages.K, half = K / 2, width = (H + 2 * G) * K;
#pragma omp parallel for schedule(static) if (N > 2)
    for (int n = 0; n < N; n++) {
        float* row = qkv + (size_t)n * width;
        const float *c = cos + (size_t)n * half, *s = sin + (size_t)n * half;
        for (int h = 0; h < H + G; h++)
            for (int i = 0; i < half; i++) {
                float a = row[h * K + i], b = row[h * K + half + i];
                row[h * K + i] = a * c[i] - b * s[i];
                row[h * K + half + i] = b * c[i] + a * s[i];
            }
        const int64_t page = places[n] / LANES, slot = places[n] % LANES;
        for (int g = 0; g < G; g++) {
            const float *k = row + (H + g) * K, *v = row + (H + G + g) * K;
            const float k_scale = P::scale(k, K), v_scale = P::scale(v, K);
            const int64_t at = pages.row(page, g);
            typename P::Number *page_k = pages.keys + at * K, *page_v = pages.values + (at + slot) * K;
            for (int i = 0; i < K; i += LANES) {
                typename P::Number numbers[LANES];
                P::store(_mm512_loadu_ps(k + i), k_scale, numbers);
                for (int j = 0; j < LANES; j++) page_k[(i + j) * LANES + slot] = numbers[j];
                P::store(_mm512_loadu_ps(v + i), v_scale, page_v + i);
            }
            P::keep(k_scale, pages.key_scales + at + slot);
            P::keep(v_scale, pages.value_scales + at + slot);
        }
    }
}

// softmax(q K^T / sqrt(K)) V of each token over its sequence's tokens up to itself.
template <class P>
void paged_attention(const float* qkv, const Pages<P>& pages, const int32_t* tables, const int64_t* rows,
                     const int64_t* positions, float* y, int N, int H, int table_width) {
    const int G = pages.G, K = pages.K, repeat = H / G, width = (H + 2 * G) * K;
    const float scale = 1.f / std::sqrt((float)K);
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (int n = 0; n < N; n++)
        for (int g = 0; g < G; g++) {
            const int length = positions[n] + 1, room = (length + LANES - 1) / LANES * LANES;
            float q[4 * 256];
            static thread_local float* scores = nullptr;
            static thread_local int held = 0;
            if (held < 4 * room) {
                delete[] scores;
                held = 8 * room;
                scores = new float[held];
            }
            const int32_t* table = tables + rows[n] * table_width;
            for (int h = 0; h < repeat;) {
                const int some = repeat - h < 4 ? repeat - h : 4;
                const float* row = qkv + (size_t)n * width + (g * repeat + h) * K;
                for (int i = 0; i < some * K; i++) q[i] = row[i] * scale;
                float* out = y + ((size_t)n * H + g * repeat + h) * K;
                switch (some) {
                    case 1: attend_head<P, 1>(q, pages, g, table, length, scores, out); break;
                    case 2: attend_head<P, 2>(q, pages, g, table, length, scores, out); break;
                    case 3: attend_head<P, 3>(q, pages, g, table, length, scores, out); break;
                    default: attend_head<P, 4>(q, pages, g, table, length, scores, out);
                }
                h += some;
            }
        }
}

}  // namespace
