// A program that is linked to the driver itself.
extern "C" int RunBurst();

int main() {
  return RunBurst();
}
