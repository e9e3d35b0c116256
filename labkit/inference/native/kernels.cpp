// The engine's kernels for CPUs with AVX-512 (VNNI and BF16). Activations are float32 rows; weights
// are bfloat16 or 8-bit (linear.h), keys and values lie in pages (attention.h). Every function below
// `extern "C"` is called through ctypes; see ops.py for its contract.
//
// Letters: N tokens, D width, F ffn width, I inputs, O outputs, H query heads, G key/value heads, K head width.

#include "attention.h"
#include "linear.h"

namespace {

void norm(const float* x, const float* weight, float* y, int N, int D, float eps) {
#pragma omp parallel for schedule(static) if (N > 4)
    for (int n = 0; n < N; n++) {
        const float* row = x + (size_t)n * D;
        __m512 squares = _mm512_setzero_ps();
        for (int i = 0; i < D; i += LANES) {
            __m512 v = _mm512_loadu_ps(row + i);
            squares = _mm512_fmadd_ps(v, v, squares);
        }
        __m512 r = _mm512_set1_ps(1.f / std::sqrt(_mm512_reduce_add_ps(squares) / D + eps));
        for (int i = 0; i < D; i += LANES)
            _mm512_storeu_ps(y + (size_t)n * D + i,
                             _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(row + i), r), _mm512_loadu_ps(weight + i)));
    }
}

void gated(const float* gate_up, float* y, int N, int F) {
#pragma omp parallel for schedule(static) if (N > 2)
    for (int n = 0; n < N; n++)
        for (int i = 0; i < F; i += LANES) {
            const float* row = gate_up + (size_t)n * 2 * F + i;
            __m512 g = _mm512_loadu_ps(row), u = _mm512_loadu_ps(row + F), one = _mm512_set1_ps(1.f);
            __m512 e = exp_lanes(_mm512_sub_ps(_mm512_setzero_ps(), g));
            _mm512_storeu_ps(y + (size_t)n * F + i, _mm512_mul_ps(_mm512_div_ps(g, _mm512_add_ps(one, e)), u));
        }
}

// The structures that ops.py fills: what a layer reads, and what a step works on.
struct Weight {
    const void* packed;
    const float* scales;
    int I, O, bits;
};

struct Layer {
    const float *norm_attention, *norm_ffn;
    Weight qkv, o, gate_up, down;
    void *keys, *values;
    float *key_scales, *value_scales;
};

struct Step {
    float *x, *h, *qkv, *y, *gate_up;  // (N, D), (N, D), (N, (H + 2 G) K), (N, max(H K, F)), (N, 2 F)
    int32_t* scratch;
    float* facts;
    const float *cos, *sin;
    const int64_t *places, *rows, *positions;
    const int32_t* tables;
    float eps;
    int N, D, F, H, G, K, table_width;
};

void product(const Weight& w, const float* x, float* y, bool add, const Step& s) {
    auto run = w.bits == 8 ? linear<Int8> : linear<Bf16>;
    run(x, w.packed, w.scales, y, s.N, w.I, w.O, add, s.scratch, s.facts);
}

// x += Attention(norm(x)); x += FFN(norm(x)): all layers in one call, which a step of one token notices.
template <class P>
void decoder(const Layer* layers, int L, const Step& s) {
    for (const Layer* layer = layers; layer < layers + L; layer++) {
        const Pages<P> pages{(typename P::Number*)layer->keys, (typename P::Number*)layer->values,
                             layer->key_scales, layer->value_scales, s.G, s.K};
        norm(s.x, layer->norm_attention, s.h, s.N, s.D, s.eps);
        product(layer->qkv, s.h, s.qkv, false, s);
        rope_and_store(s.qkv, s.cos, s.sin, s.places, pages, s.N, s.H);
        paged_attention(s.qkv, pages, s.tables, s.rows, s.positions, s.y, s.N, s.H, s.table_width);
        product(layer->o, s.y, s.x, true, s);
        norm(s.x, layer->norm_ffn, s.h, s.N, s.D, s.eps);
        product(layer->gate_up, s.h, s.gate_up, false, s);
        gated(s.gate_up, s.y, s.N, s.F);
        product(layer->down, s.y, s.x, true, s);
    }
}

}  // namespace

extern "C" {

void decoder_bf16(const Layer* layers, int L, const Step* step) { decoder<Bf16Page>(layers, L, *step); }

void decoder_int8(const Layer* layers, int L, const Step* step) { decoder<Int8Page>(layers, L, *step); }

void linear_bf16(const float* x, const void* w, const float* scales, float* y, int N, int I, int O, int add,
                 int32_t* scratch, float* facts) {
    linear<Bf16>(x, w, scales, y, N, I, O, add, scratch, facts);
}

void linear_int8(const float* x, const void* w, const float* scales, float* y, int N, int I, int O, int add,
                 int32_t* scratch, float* facts) {
    linear<Int8>(x, w, scales, y, N, I, O, add, scratch, facts);
}

void rms_norm(const float* x, const float* weight, float* y, int N, int D, float eps) {
    norm(x, weight, y, N, D, eps);
}

void silu_product(const float* gate_up, float* y, int N, int F) { gated(gate_up, y, N, F); }

void rope_and_store_bf16(float* qkv, const float* cos, const float* sin, const int64_t* places, bf16* keys, bf16* values,
                         float* key_scales, float* value_scales, int N, int H, int G, int K) {
    rope_and_store<Bf16Page>(qkv, cos, sin, places, {keys, values, key_scales, value_scales, G, K}, N, H);
}

void rope_and_store_int8(float* qkv, const float* cos, const float* sin, const int64_t* places, int8_t* keys,
                         int8_t* values, float* key_scales, float* value_scales, int N, int H, int G, int K) {
    rope_and_store<Int8Page>(qkv, cos, sin, places, {keys, values, key_scales, value_scales, G, K}, N, H);
}

void paged_attention_bf16(const float* qkv, bf16* keys, bf16* values, float* key_scales, float* value_scales,
                          const int32_t* tables, const int64_t* rows, const int64_t* positions, float* y, int N, int H,
                          int G, int K, int table_width) {
    paged_attention<Bf16Page>(qkv, {keys, values, key_scales, value_scales, G, K}, tables, rows, positions, y, N, H,
                              table_width);
}

void paged_attention_int8(const float* qkv, int8_t* keys, int8_t* values, float* key_scales, float* value_scales,
                          const int32_t* tables, const int64_t* rows, const int64_t* positions, float* y, int N, int H,
                          int G, int K, int table_width) {
    paged_attention<Int8Page>(qkv, {keys, values, key_scales, value_scales, G, K}, tables, rows, positions, y, N, H,
                              table_width);
}

}  // extern "C"
