// Command twill is the CNI plugin. It wires the verbs of package attach to the kernel, the records and the allocator.
package main
