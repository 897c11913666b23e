#include "kvcache/holder_sets.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace sublet {
namespace {

constexpr std::uint32_t kLaneMask = kLanesMax - 1;
constexpr int kHoldsShift = 13;
static_assert(kLanesMax == 1u << kHoldsShift);

// An entry is a lane and, above it, how it holds the block; 0 is no entry.
std::uint32_t Entry(LaneId lane, Holds holds) {
  return lane | static_cast<std::uint32_t>(holds) << kHoldsShift;
}
LaneId LaneOf(std::uint32_t entry) {
  return entry & kLaneMask;
}
Holds HoldsOf(std::uint32_t entry) {
  return static_cast<Holds>(entry >> kHoldsShift & 3u);
}

constexpr std::uint32_t kListStart = 6;  // With the head, 16 bytes.

}  // namespace

// What a handle points to begins with these two, and `capacity` is 0 for bits.
struct HolderSets::List {
  std::uint16_t count;
  std::uint16_t capacity;

  std::uint16_t* entries() { return reinterpret_cast<std::uint16_t*>(this + 1); }
  static std::size_t Bytes(std::uint32_t capacity) { return sizeof(List) + 2u * capacity; }
};

struct HolderSets::Bits {
  std::uint16_t count;
  std::uint16_t capacity;  // 0.
  std::uint32_t words;

  // A lane's two bits are its Holds: the low ones of all lanes, then the high ones.
  std::uint64_t* low() { return reinterpret_cast<std::uint64_t*>(this + 1); }
  std::uint64_t* high() { return low() + words; }
  static std::size_t Bytes(std::uint32_t words) { return sizeof(Bits) + 16u * words; }

  Holds Get(LaneId lane) {
    if (lane / 64 >= words) return Holds::kNot;
    const std::uint64_t low_bit = low()[lane / 64] >> lane % 64 & 1u;
    const std::uint64_t high_bit = high()[lane / 64] >> lane % 64 & 1u;
    return static_cast<Holds>(low_bit | high_bit << 1);
  }
  void Put(LaneId lane, Holds holds) {
    const auto value = static_cast<std::uint64_t>(holds);
    std::uint64_t& low_word = low()[lane / 64];
    std::uint64_t& high_word = high()[lane / 64];
    low_word = (low_word & ~(std::uint64_t{1} << lane % 64)) | (value & 1u) << lane % 64;
    high_word = (high_word & ~(std::uint64_t{1} << lane % 64)) | value >> 1 << lane % 64;
  }
};

template <typename Visit>
void HolderSets::ForEach(std::uint32_t holders, const Visit& visit) const {
  if ((holders & kElsewhere) == 0) {
    for (std::uint32_t rest = holders; rest != 0; rest >>= 16) {
      if ((rest & 0xffffu) != 0) visit(LaneOf(rest & 0xffffu), HoldsOf(rest & 0xffffu));
    }
    return;
  }
  List* const list = arena_.At<List>(HandleOf(holders));
  if (list->capacity != 0) {
    for (std::uint32_t i = 0; i < list->count; ++i) {
      visit(LaneOf(list->entries()[i]), HoldsOf(list->entries()[i]));
    }
    return;
  }
  Bits* const bits = arena_.At<Bits>(HandleOf(holders));
  for (std::uint32_t w = 0; w < bits->words; ++w) {
    for (std::uint64_t any = bits->low()[w] | bits->high()[w]; any != 0; any &= any - 1) {
      const LaneId lane = w * 64 + static_cast<LaneId>(std::countr_zero(any));
      visit(lane, bits->Get(lane));
    }
  }
}

Holds HolderSets::Get(std::uint32_t holders, LaneId lane) const {
  if ((holders & kElsewhere) != 0) {
    Bits* const bits = arena_.At<Bits>(HandleOf(holders));
    if (bits->capacity == 0) return bits->Get(lane);
  }
  Holds found = Holds::kNot;
  ForEach(holders, [&](LaneId at, Holds holds) {
    if (at == lane) found = holds;
  });
  return found;
}

int HolderSets::Count(std::uint32_t holders) const {
  if ((holders & kElsewhere) != 0) return arena_.At<List>(HandleOf(holders))->count;
  return ((holders & 0xffffu) != 0) + (holders >> 16 != 0);
}

void HolderSets::SetLaneWords(std::size_t words) {
  bit_words_ = static_cast<std::uint32_t>(std::bit_ceil(words));
}

bool HolderSets::Set(std::uint32_t& holders, LaneId lane, Holds holds) {
  CHECK(lane / 64 < bit_words_ || holds == Holds::kNot);
  if ((holders & kElsewhere) == 0) return SetInWord(holders, lane, holds);
  if (arena_.At<List>(HandleOf(holders))->capacity != 0) return SetInList(holders, lane, holds);
  return SetInBits(holders, lane, holds);
}

bool HolderSets::SetInWord(std::uint32_t& holders, LaneId lane, Holds holds) {
  int empty = -1;
  for (int shift = 0; shift <= 16; shift += 16) {
    const std::uint32_t entry = holders >> shift & 0xffffu;
    if (entry == 0) {
      empty = shift;
    } else if (LaneOf(entry) == lane) {
      holders &= ~(0xffffu << shift);
      if (holds != Holds::kNot) holders |= Entry(lane, holds) << shift;
      return true;
    }
  }
  if (holds == Holds::kNot) return true;
  if (empty >= 0) {
    holders |= Entry(lane, holds) << empty;
    return true;
  }
  const bool listed = 2 * bit_words_ >= kListStart && ToList(holders, kListStart);
  if (!listed && !ToBits(holders, bit_words_)) return false;
  return Set(holders, lane, holds);
}

bool HolderSets::SetInList(std::uint32_t& holders, LaneId lane, Holds holds) {
  List* const list = arena_.At<List>(HandleOf(holders));
  std::uint16_t* const entries = list->entries();
  for (std::uint32_t i = 0; i < list->count; ++i) {
    if (LaneOf(entries[i]) != lane) continue;
    if (holds != Holds::kNot) {
      entries[i] = static_cast<std::uint16_t>(Entry(lane, holds));
      return true;
    }
    entries[i] = entries[--list->count];
    if (list->count <= 2) {
      ToWord(holders);
    } else if (list->capacity > kListStart && list->count <= list->capacity / 4) {
      ToList(holders, (list->capacity - 2) / 2);  // Stays as it is where there is no memory.
    }
    return true;
  }
  if (holds == Holds::kNot) return true;
  if (list->count == list->capacity) {
    // 6, 14, 30, ... entries are 16, 32, 64, ... bytes.
    const std::uint32_t wider = 2u * list->capacity + 2;
    const bool listed = wider <= 4 * bit_words_ && ToList(holders, wider);
    if (!listed && !ToBits(holders, bit_words_)) return false;
    return Set(holders, lane, holds);
  }
  entries[list->count++] = static_cast<std::uint16_t>(Entry(lane, holds));
  return true;
}

bool HolderSets::SetInBits(std::uint32_t& holders, LaneId lane, Holds holds) {
  Bits* bits = arena_.At<Bits>(HandleOf(holders));
  const Holds before = bits->Get(lane);
  if (before == holds) return true;
  if (lane / 64 >= bits->words) {
    if (!ToBits(holders, bit_words_)) return false;
    bits = arena_.At<Bits>(HandleOf(holders));
  }
  bits->Put(lane, holds);
  if (before == Holds::kNot) ++bits->count;
  if (holds != Holds::kNot) return true;
  --bits->count;
  if (bits->count <= 2) {
    ToWord(holders);
  } else if (bits->count <= bits->words / 2) {
    std::uint32_t capacity = kListStart;
    while (capacity < bits->count) capacity = 2 * capacity + 2;
    ToList(holders, capacity);  // Stays as it is where there is no memory.
  }
  return true;
}

bool HolderSets::ToList(std::uint32_t& holders, std::uint32_t capacity) {
  const SlabHandle handle = arena_.Allocate(List::Bytes(capacity));
  if (handle == 0) return false;
  List* const list = arena_.At<List>(handle);
  list->count = 0;
  list->capacity = static_cast<std::uint16_t>(capacity);
  ForEach(holders, [&](LaneId lane, Holds holds) {
    list->entries()[list->count++] = static_cast<std::uint16_t>(Entry(lane, holds));
  });
  Free(holders);
  holders = handle | kElsewhere;
  return true;
}

bool HolderSets::ToBits(std::uint32_t& holders, std::uint32_t words) {
  const SlabHandle handle = arena_.Allocate(Bits::Bytes(words));
  if (handle == 0) return false;
  Bits* const bits = arena_.At<Bits>(handle);
  bits->count = 0;
  bits->capacity = 0;
  bits->words = words;
  std::fill_n(bits->low(), 2 * words, 0);
  ForEach(holders, [&](LaneId lane, Holds holds) {
    bits->Put(lane, holds);
    ++bits->count;
  });
  Free(holders);
  holders = handle | kElsewhere;
  return true;
}

void HolderSets::ToWord(std::uint32_t& holders) {
  std::uint32_t word = 0;
  ForEach(holders, [&](LaneId lane, Holds holds) { word = word << 16 | Entry(lane, holds); });
  Free(holders);
  holders = word;
}

void HolderSets::Free(std::uint32_t holders) {
  if ((holders & kElsewhere) == 0) return;
  const SlabHandle handle = HandleOf(holders);
  Bits* const bits = arena_.At<Bits>(handle);
  arena_.Free(handle, bits->capacity != 0 ? List::Bytes(bits->capacity) : Bits::Bytes(bits->words));
}

void HolderSets::Prefetch(std::uint32_t holders) const {
  if ((holders & kElsewhere) == 0) return;
  const char* const at = arena_.At<char>(HandleOf(holders));
  __builtin_prefetch(at);
  if (bit_words_ > 2) __builtin_prefetch(at + 64);  // A list may be as long, too.
}

void HolderSets::Spread(std::uint32_t holders, HolderPlanes& planes) const {
  planes.special = false;
  const auto clear_special = [&] {
    if (planes.special) return;
    planes.special = true;
    std::fill(planes.lower.begin(), planes.lower.end(), 0);
    std::fill(planes.predicted.begin(), planes.predicted.end(), 0);
  };
  Bits* const bits = (holders & kElsewhere) != 0 ? arena_.At<Bits>(HandleOf(holders)) : nullptr;
  if (bits == nullptr || bits->capacity != 0) {
    std::fill(planes.any.begin(), planes.any.end(), 0);
    ForEach(holders, [&](LaneId lane, Holds holds) {
      if (lane / 64 >= planes.any.size()) return;
      const std::uint64_t bit = std::uint64_t{1} << lane % 64;
      planes.any[lane / 64] |= bit;
      if (holds == Holds::kGpu) return;
      clear_special();
      (holds == Holds::kLower ? planes.lower : planes.predicted)[lane / 64] |= bit;
    });
    return;
  }
  const std::size_t words = std::min<std::size_t>(bits->words, planes.any.size());
  std::uint64_t special = 0;
  for (std::size_t w = 0; w < words; ++w) {
    planes.any[w] = bits->low()[w] | bits->high()[w];
    special |= bits->high()[w];
  }
  std::fill(planes.any.begin() + static_cast<std::ptrdiff_t>(words), planes.any.end(), 0);
  if (special == 0) return;
  clear_special();
  for (std::size_t w = 0; w < words; ++w) {
    planes.lower[w] = bits->high()[w] & ~bits->low()[w];
    planes.predicted[w] = bits->high()[w] & bits->low()[w];
  }
}

}  // namespace sublet
