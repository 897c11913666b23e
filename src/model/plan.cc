#include "model/plan.h"

#include "base/check.h"

namespace sublet {

std::string_view SharingModeName(SharingMode mode) {
  switch (mode) {
    case SharingMode::kExclusive:
      return "exclusive";
    case SharingMode::kStreams:
      return "streams";
    case SharingMode::kTimeSlicing:
      return "time-slicing";
    case SharingMode::kMps:
      return "mps";
    case SharingMode::kMig:
      return "mig";
  }
  CHECK(false);
}

std::string_view IsolationName(Isolation isolation) {
  switch (isolation) {
    case Isolation::kNone:
      return "none";
    case Isolation::kMemory:
      return "memory";
    case Isolation::kFault:
      return "fault";
    case Isolation::kHardware:
      return "hardware";
  }
  CHECK(false);
}

std::string_view ChangeKindName(Change::Kind kind) {
  switch (kind) {
    case Change::Kind::kKeep:
      return "keep";
    case Change::Kind::kMove:
      return "move";
    case Change::Kind::kAdd:
      return "add";
    case Change::Kind::kRemove:
      return "remove";
  }
  CHECK(false);
}

}  // namespace sublet
