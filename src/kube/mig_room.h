// kube/mig_room.h
//
// Which MIG devices to hand out so that what is left can still become large instances.
//
//   MigChoiceInput input{.inventory = inventory, .offers = {{uuid, false}, ...}, .idle = {}};
//   ChooseMigDevices(input, 2)          // Places in `offers`, ascending.
//
// An instance that nobody uses can be destroyed and its place become part of a larger one. Of the
// choices of a size this is the one after which most instances of the largest profile fit into
// what isn't in use on all GPUs together, among those most of the next one, and so on; then the one
// on the lowest GPU, with the lowest devices. Exact: no choice leaves more. (Where `inventory`
// lacks an offered device, having been taken at another time, the first offers are chosen.)
//
// Thread safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "model/inventory.h"

namespace sublet {

struct MigOfferedDevice {
  std::string uuid;  // "MIG-...": free, and may be handed out.
  bool required = false;
};

struct MigChoiceInput {
  const Inventory& inventory;
  // In the order of the GPUs' indices, then of the devices': among equals earlier ones are taken.
  std::vector<MigOfferedDevice> offers;
  // Further MIG devices that nobody uses. All others are in use.
  std::set<std::string> idle = {};
};

// How many instances of each profile fit into what is free, the largest profile first: for each of
// `profiles`, as many disjoint placements as there are within the units of `free`.
std::vector<int> MigRoom(const std::vector<ReportedProfile>& profiles, std::uint64_t free_units);

// REQUIRES: required offers <= size <= offers.
std::vector<std::size_t> ChooseMigDevices(const MigChoiceInput& input, int size);

}  // namespace sublet
