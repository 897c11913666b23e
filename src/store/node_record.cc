#include "store/node_record.h"

#include "model/json_fields.h"

namespace sublet {

const EnumWords<RowState>& RowStateWords() {
  static const EnumWords<RowState> kWords{{"creating", RowState::kCreating},
                                          {"present", RowState::kPresent},
                                          {"removing", RowState::kRemoving}};
  return kWords;
}

std::string_view RowStateName(RowState state) {
  return WordOf(RowStateWords(), state);
}

const EnumWords<OperationKind>& OperationKindWords() {
  static const EnumWords<OperationKind> kWords{
      {"up", OperationKind::kUp}, {"down", OperationKind::kDown}, {"mig", OperationKind::kMig}};
  return kWords;
}

std::string_view OperationKindName(OperationKind kind) {
  return WordOf(OperationKindWords(), kind);
}

const EnumWords<OperationDirection>& OperationDirectionWords() {
  static const EnumWords<OperationDirection> kWords{{"forward", OperationDirection::kForward},
                                                    {"back", OperationDirection::kBack}};
  return kWords;
}

std::string_view OperationDirectionName(OperationDirection direction) {
  return WordOf(OperationDirectionWords(), direction);
}

const EnumWords<ReplicaWanted>& ReplicaWantedWords() {
  static const EnumWords<ReplicaWanted> kWords{{"running", ReplicaWanted::kRunning},
                                               {"stopped", ReplicaWanted::kStopped}};
  return kWords;
}

std::string_view ReplicaWantedName(ReplicaWanted wanted) {
  return WordOf(ReplicaWantedWords(), wanted);
}

}  // namespace sublet
