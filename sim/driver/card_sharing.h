// sim/driver/card_sharing.h
//
// How kernels that run at the same moment share a card: at what speed each goes.
//
// The card is a fluid: a kernel at full speed occupies so many SMs and so much bandwidth, and where
// the kernels together want more than there is, all who want more than their even part are slowed.
// Three limits are applied one after the other:
//   1. A client's kernels together use no more than its SM cap.
//   2. All clients together use no more than the card's SMs, max-min fair between clients.
//   3. All together move no more than the card's bandwidth, max-min fair between clients.
// What the third leaves of the SMs is not handed out again; on a card, too, blocks that wait for
// memory keep their SM.
//
// The crowd effect. A kernel with `crowd` needs more SM time while other clients run: with n
// clients running, 1 + crowd * (1 - 1/n) * spread^2 times as much, where spread is the part of the
// card's SMs that its client may use. It stands for what was measured (CardWork::crowd), and says
// why capped clients are better neighbours: their blocks meet fewer others.
//
// Thread safety: pure functions.
#pragma once

#include <vector>

#include "kernel_costs.h"

namespace sublet::sim {

struct RunningKernel {
  int client = 0;  // Kernels of one client stand beside each other in the list.
  double sm_cap = 0;
  CardWork work;
};

struct CardCapacity {
  double sms = 0;
  double bytes_per_ns = 0;  // What can be reached, not what the data sheet says.
};

struct SharedSpeeds {
  std::vector<double> speeds;  // Of each kernel: the part of it that is done in a nanosecond.
  double sms_busy = 0;
  double bytes_per_ns = 0;
};

void ShareCard(const std::vector<RunningKernel>& kernels, const CardCapacity& card,
               SharedSpeeds& out);

// What each gets of `total` when the even part is the most for whoever wants more.
void MaxMinFair(const std::vector<double>& demands, double total, std::vector<double>& out);

}  // namespace sublet::sim
