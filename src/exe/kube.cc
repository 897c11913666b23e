// `sublet kube`: this node's GPUs for Kubernetes.
#include "exe/kube_verbs.h"

namespace sublet {

void AddKubeVerb(Program& program) {
  CLI::App* kube = program.app.add_subcommand("kube", "Bring this node's GPUs into Kubernetes");
  kube->require_subcommand(1);
  AddKubeCdi(program, *kube);
  AddKubeLabels(program, *kube);
  AddKubeAgent(program, *kube);
  AddKubeMigManager(program, *kube);
  AddKubePlugin(program, *kube);
}

}  // namespace sublet
