// The Python module: arrays in, arrays out, no policy. Shapes are checked by its callers in moiety/ring.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"

namespace nb = nanobind;

namespace moiety {
namespace {

template <class T, std::size_t N>
using Array = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <std::size_t N>
using In = Array<const Word, N>;
template <std::size_t N>
using Out = Array<Word, N>;

constexpr std::align_val_t kPage{4096};

struct Release {
  void operator()(Word* words) const { ::operator delete(words, kPage); }
};

struct Buffer {
  std::unique_ptr<Word, Release> words;
  std::size_t size = 0;
};

thread_local Buffer buffers[kSlots];

std::vector<const Kernels*> usable() {
  std::vector<const Kernels*> found;
#ifdef MOIETY_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("bmi2")) {
    found.push_back(&kAvx512);
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2")) found.push_back(&kAvx2);
#endif
  found.push_back(&kPortable);
  return found;
}

std::atomic<const Kernels*> chosen{&kPortable};

const Kernels& kernels() { return *chosen.load(std::memory_order_relaxed); }

std::vector<std::string> available() {
  std::vector<std::string> names;
  for (const Kernels* set : usable()) names.emplace_back(set->isa);
  return names;
}

void select(const std::string& isa) {
  for (const Kernels* set : usable()) {
    if (isa == set->isa) {
      chosen.store(set);
      return;
    }
  }
  throw std::invalid_argument("this build and processor have no " + isa + " kernels");
}

Index size(std::size_t n) { return static_cast<Index>(n); }

void gemm(const In<3>& a, const In<3>& b, const Array<const std::int64_t, 2>& pairs, const Out<3>& out) {
  const Index m = size(a.shape(1)), k = size(a.shape(2)), n = size(b.shape(2));
  const Index count = size(pairs.shape(0));
  std::memset(out.data(), 0, out.nbytes());
  for (Index i = 0; i < count; ++i) {
    const std::int64_t* pair = pairs.data() + 2 * i;
    kernels().gemm(m, k, n, a.data() + pair[0] * m * k, b.data() + pair[1] * k * n, out.data() + i * m * n);
  }
}

void pack(const In<2>& b, const Out<3>& panels) {
  kernels().pack(size(b.shape(0)), size(b.shape(1)), b.data(), panels.data());
}

template <class T>
using Multiply = void (*)(Index, Index, Index, const Word*, const T*, Word*, bool);

template <class T>
void multiply_by(Multiply<T> kernel, const In<2>& a, const Array<const T, 3>& panels, const Out<2>& out, bool negate) {
  kernel(size(a.shape(0)), size(a.shape(1)), size(out.shape(1)), a.data(), panels.data(), out.data(), negate);
}

void multiply(const In<2>& a, const In<3>& panels, const Out<2>& out, bool negate) {
  multiply_by(kernels().multiply, a, panels, out, negate);
}

void multiply16(const In<2>& a, const Array<const std::int16_t, 3>& panels, const Out<2>& out, bool negate) {
  multiply_by(kernels().multiply16, a, panels, out, negate);
}

void multiply32(const In<2>& a, const Array<const std::int32_t, 3>& panels, const Out<2>& out, bool negate) {
  multiply_by(kernels().multiply32, a, panels, out, negate);
}

void table_sums(const Array<const Octet, 2>& selectors, const In<1>& index, const In<2>& tables, const Out<2>& out) {
  kernels().table_sums(size(index.shape(0)), size(tables.shape(1)), size(tables.shape(0)), selectors.data(), index.data(),
                       tables.data(), out.data());
}

void flip(const Array<const Octet, 2>& selectors, const In<1>& index, const Array<Octet, 2>& out) {
  const std::size_t bytes = selectors.shape(1), rows = index.shape(0);
  std::memcpy(out.data(), selectors.data(), rows * bytes);
  for (std::size_t i = 0; i < rows; ++i) {
    const Word place = index.data()[i];
    out.data()[i * bytes + (place >> 3)] ^= static_cast<Octet>(1u << (place & 7));
  }
}

void picked(const Array<const Octet, 2>& selectors, const In<1>& index, const Out<1>& out) {
  const std::size_t bytes = selectors.shape(1), rows = index.shape(0);
  for (std::size_t i = 0; i < rows; ++i) {
    const Word place = index.data()[i];
    out.data()[i] = (selectors.data()[i * bytes + (place >> 3)] >> (place & 7)) & 1u;
  }
}

void planes(const In<1>& words, const Out<2>& out) {
  kernels().planes(size(words.shape(0)), size(out.shape(0)), words.data(), out.data());
}

void unplanes(const In<2>& bits, const Out<1>& out) {
  kernels().unplanes(size(out.shape(0)), size(bits.shape(0)), bits.data(), out.data());
}

void shift_right(const In<1>& words, int bits, const Out<1>& out) {
  kernels().shift_right(size(words.shape(0)), words.data(), bits, out.data());
}

void wrap_truncate(const In<1>& masked, const In<1>& low, const In<1>& wrap, int bits, bool lead, const Out<1>& out) {
  kernels().wrap_truncate(size(masked.shape(0)), masked.data(), low.data(), wrap.data(), bits, lead, out.data());
}

using Flat = nb::ndarray<const Word, nb::c_contig, nb::device::cpu>;
using FlatOut = nb::ndarray<Word, nb::c_contig, nb::device::cpu>;
using FlatOctets = nb::ndarray<const Octet, nb::c_contig, nb::device::cpu>;
using FlatOctetsOut = nb::ndarray<Octet, nb::c_contig, nb::device::cpu>;

void combine(const Flat& a, const Flat& b, bool subtract, int bits, const FlatOut& out) {
  kernels().combine(size(out.size()), a.data(), b.data(), subtract, bits, out.data());
}

void cross_share(const Flat& mx, const Flat& lx, const Flat& my, const Flat& ly, const Flat& dealt, int up, bool lead,
                 const FlatOut& out) {
  kernels().cross_share(size(out.size()), mx.data(), lx.data(), my.data(), ly.data(), dealt.data(), up, lead, out.data());
}

void shift_share(const Flat& words, int by, int bits, bool lead, const FlatOut& out) {
  kernels().shift_share(size(out.size()), words.data(), by, bits, lead, out.data());
}

void round_shift(const Flat& words, int by, int bits, const FlatOut& out) {
  kernels().round_shift(size(out.size()), words.data(), by, bits, out.data());
}

void to_octets(const Flat& words, int bits, const FlatOctetsOut& out) {
  kernels().to_octets(size(words.size()), words.data(), bits, out.data());
}

void from_octets(const FlatOctets& octets, int bits, const FlatOut& out) {
  kernels().from_octets(size(out.size()), octets.data(), bits, out.data());
}

template <class T>
using Strided = nb::ndarray<const T, nb::ndim<2>, nb::device::cpu>;

template <class T>
using Encode = Index (*)(Index, Index, const T*, Index, Index, const float*, int, const Word*, Word*, Index);

template <class T>
Index encode(Encode<T> kernel, const Strided<T>& values, const Array<const float, 1>& gain, int fraction, const In<2>& also,
             const Out<2>& out) {
  const float* factors = gain.shape(0) == 0 ? nullptr : gain.data();
  return kernel(size(values.shape(0)), size(values.shape(1)), values.data(), values.stride(0), values.stride(1), factors,
                fraction, also.data(), out.data(), size(out.shape(1)));
}

using Gain = Array<const float, 1>;

Index encode16(const Strided<std::uint16_t>& values, const Gain& gain, int fraction, const In<2>& also, const Out<2>& out) {
  return encode(kernels().encode16, values, gain, fraction, also, out);
}

Index encode32(const Strided<float>& values, const Gain& gain, int fraction, const In<2>& also, const Out<2>& out) {
  return encode(kernels().encode32, values, gain, fraction, also, out);
}

Index encode64(const Strided<double>& values, const Gain& gain, int fraction, const In<2>& also, const Out<2>& out) {
  return encode(kernels().encode64, values, gain, fraction, also, out);
}

bool has_aes() {
#ifdef MOIETY_X86
  return kernels().point_sums != nullptr && __builtin_cpu_supports("aes");
#else
  return false;
#endif
}

void point_sums(const Array<const Octet, 1>& key, const In<2>& roots, const In<3>& steps, const In<3>& last, const In<1>& index,
                const In<1>& local, const In<3>& tables, bool lead, const Out<2>& out) {
  kernels().point_sums(size(index.shape(0)), size(tables.shape(2)), size(tables.shape(1)), size(tables.shape(0)), key.data(),
                       roots.data(), steps.data(), last.data(), index.data(), local.data(), tables.data(), lead, out.data());
}

}  // namespace

Word* scratch(Slot slot, std::size_t words) {
  Buffer& buffer = buffers[slot];
  if (buffer.size < words) {
    buffer.words.reset();
    buffer.size = 0;
    buffer.words.reset(static_cast<Word*>(::operator new(words * sizeof(Word), kPage)));
    buffer.size = words;
  }
  return buffer.words.get();
}

NB_MODULE(_native, m) {
  using Free = nb::call_guard<nb::gil_scoped_release>;
  m.doc() = "Compiled kernels of Z_2^64; use them through moiety.ring.kernels.";
  m.def("available", &available);
  m.def("select", &select);
  m.def("gemm", &gemm, Free());
  m.def("pack", &pack, Free());
  m.def("multiply", &multiply, Free());
  m.def("multiply16", &multiply16, Free());
  m.def("multiply32", &multiply32, Free());
  m.def("table_sums", &table_sums, Free());
  m.def("flip", &flip, Free());
  m.def("picked", &picked, Free());
  m.def("planes", &planes, Free());
  m.def("unplanes", &unplanes, Free());
  m.def("shift_right", &shift_right, Free());
  m.def("wrap_truncate", &wrap_truncate, Free());
  m.def("combine", &combine, Free());
  m.def("cross_share", &cross_share, Free());
  m.def("shift_share", &shift_share, Free());
  m.def("round_shift", &round_shift, Free());
  m.def("to_octets", &to_octets, Free());
  m.def("from_octets", &from_octets, Free());
  m.def("encode16", &encode16, Free());
  m.def("encode32", &encode32, Free());
  m.def("encode64", &encode64, Free());
  m.def("has_aes", &has_aes);
  m.def("point_sums", &point_sums, Free());
}

}  // namespace moiety
