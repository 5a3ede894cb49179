// Bit planes and shifts. Included inside the anonymous namespace of each instruction set, after its Bits:
//   Bits::split(words, width, planes)   bit w of 64 words into planes[w], w < width
//   Bits::join(planes, width, words)    the inverse

// Eight columns at a time, so that every plane is read and written by whole cache lines.
constexpr Index kColumns = 8;

void planes(Index count, Index width, const Word* words, Word* out) {
  const Index columns = (count + 63) / 64;
  Word column[kColumns][64], block[64];
  for (Index first = 0; first < columns; first += kColumns) {
    const Index here = least(kColumns, columns - first);
    for (Index c = 0; c < here; ++c) {
      const Word* from = words + 64 * (first + c);
      const Index rest = count - 64 * (first + c);
      if (rest < 64) {
        std::memset(block, 0, sizeof block);
        std::memcpy(block, from, rest * sizeof(Word));
        from = block;
      }
      Bits::split(from, width, column[c]);
    }
    for (Index w = 0; w < width; ++w) {
      for (Index c = 0; c < here; ++c) out[w * columns + first + c] = column[c][w];
    }
  }
}

void unplanes(Index count, Index width, const Word* planes, Word* out) {
  const Index columns = (count + 63) / 64;
  Word column[kColumns][64], block[64];
  for (Index first = 0; first < columns; first += kColumns) {
    const Index here = least(kColumns, columns - first);
    for (Index w = 0; w < width; ++w) {
      for (Index c = 0; c < here; ++c) column[c][w] = planes[w * columns + first + c];
    }
    for (Index c = 0; c < here; ++c) {
      Word* to = out + 64 * (first + c);
      const Index rest = count - 64 * (first + c);
      Bits::join(column[c], width, rest < 64 ? block : to);
      if (rest < 64) std::memcpy(to, block, rest * sizeof(Word));
    }
  }
}

void shift_right(Index count, const Word* words, int bits, Word* out) {
  for (Index i = 0; i < count; ++i) out[i] = words[i] >> bits;
}

void wrap_truncate(Index count, const Word* masked, const Word* low, const Word* wrap, int bits, bool lead, Word* out) {
  constexpr Word kLift = Word{1} << 62;
  const Word take = lead ? ~Word{0} : 0;
  const Word back = (kLift >> bits) & take;
  for (Index i = 0; i < count; ++i) {
    const Word lifted = masked[i] + kLift;
    const Word carried = wrap[i] & ((lifted >> 63) - 1);
    out[i] = ((lifted >> bits) & take) - back - low[i] + carried;
  }
}
