/* What the lab's registry serves as library/hello-world. */
#include <stdio.h>

int main(void) {
    puts("\nHello from Docker!\nThis is the lab's own hello-world: this host runs containers.\n");
    return 0;
}
