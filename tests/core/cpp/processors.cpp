// Prints how many processors the control groups allow: according to the files under a given folder, or on this system.
#include <cstdio>

#include "platform.hpp"

using namespace pipeline_executor;

int main(int count, char** arguments) {
  if (count > 1) {
    const int quota = Quotas(arguments[1]).processors();
    quota == Quotas::unlimited ? std::puts("unlimited") : std::printf("%d\n", quota);
  } else {
    std::printf("%d %d\n", allowed_processors(), usable_processors());
  }
  return 0;
}
