#include "kvcache/slab_arena.h"

#include <sys/mman.h>

#include <algorithm>

#include "base/check.h"

namespace sublet {
namespace {

// A few, so that a load which swings around a page's edge doesn't call the system each time.
constexpr std::size_t kPagesAtHandMax = 64;

}  // namespace

ReservedSpace::ReservedSpace(std::size_t bytes) : bytes_(bytes) {
  void* const data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(data != MAP_FAILED);
  data_ = static_cast<std::byte*>(data);
  // Objects are found all over it. With pages of 2 MiB the processor still knows where they are: a
  // quarter more events a second. Where the system won't have it, all works as well.
  madvise(data, bytes, MADV_HUGEPAGE);
}

ReservedSpace::~ReservedSpace() {
  munmap(data_, bytes_);
}

void ReservedSpace::Discard(std::size_t offset, std::size_t bytes) {
  CHECK(madvise(data_ + offset, bytes, MADV_DONTNEED) == 0);
}

SlabArena::SlabArena(MemoryBudget& budget)
    : budget_(budget),
      space_(std::min(budget.max(), kArenaBytesMax - kPageBytes) / kPageBytes * kPageBytes +
             kPageBytes),
      pages_(1) {}

SlabHandle SlabArena::Allocate(std::size_t bytes, std::size_t pages_left) {
  const std::size_t words = bytes / kWordBytes;
  std::uint32_t number = room_[words];
  if (number == 0) {
    number = TakePage(words, pages_left);
    if (number == 0) return 0;
  }
  Page& page = pages_[number];
  const auto start = static_cast<SlabHandle>(number * kPageWords);
  SlabHandle handle;
  if (page.freed != 0) {
    handle = start + page.freed - 1u;
    page.freed = static_cast<std::uint16_t>(*At<std::uint32_t>(handle));
  } else {
    handle = start + page.fresh;
    page.fresh = static_cast<std::uint16_t>(page.fresh + words);
  }
  ++page.used;
  if (page.freed == 0 && page.fresh + words > kPageWords) Unlink(number);
  return handle;
}

void SlabArena::Free(SlabHandle handle, std::size_t bytes) {
  const std::size_t words = bytes / kWordBytes;
  const auto number = static_cast<std::uint32_t>(handle / kPageWords);
  Page& page = pages_[number];
  CHECK(page.words == words && page.used > 0);
  const bool was_full = page.freed == 0 && page.fresh + words > kPageWords;
  *At<std::uint32_t>(handle) = page.freed;
  page.freed = static_cast<std::uint16_t>(handle % kPageWords + 1);
  --page.used;
  if (was_full) Link(number);
  if (page.used == 0) GivePage(number);
}

std::uint32_t SlabArena::TakePage(std::size_t words, std::size_t pages_left) {
  if (budget_.max() - budget_.used() < (pages_left + 1) * kPageBytes) return 0;
  std::uint32_t number;
  if (!at_hand_.empty()) {
    number = at_hand_.back();
    at_hand_.pop_back();
  } else if (!gone_.empty()) {
    number = gone_.back();
    gone_.pop_back();
  } else {
    if (pages_.size() * kPageBytes >= kArenaBytesMax - kPageBytes) return 0;
    number = static_cast<std::uint32_t>(pages_.size());
    pages_.emplace_back();
  }
  CHECK(budget_.Take(kPageBytes));
  pages_[number] = {.words = static_cast<std::uint16_t>(words)};
  Link(number);
  return number;
}

void SlabArena::GivePage(std::uint32_t number) {
  Unlink(number);
  pages_[number] = {};
  budget_.Give(kPageBytes);
  if (at_hand_.size() < kPagesAtHandMax) {
    at_hand_.push_back(number);
  } else {
    space_.Discard(number * kPageBytes, kPageBytes);
    gone_.push_back(number);
  }
}

void SlabArena::Link(std::uint32_t number) {
  Page& page = pages_[number];
  page.before = 0;
  page.after = room_[page.words];
  if (page.after != 0) pages_[page.after].before = number;
  room_[page.words] = number;
}

void SlabArena::Unlink(std::uint32_t number) {
  Page& page = pages_[number];
  if (page.before != 0) {
    pages_[page.before].after = page.after;
  } else {
    room_[page.words] = page.after;
  }
  if (page.after != 0) pages_[page.after].before = page.before;
  page.before = page.after = 0;
}

}  // namespace sublet
