// Package sandbox takes rights away from toe's own processes.
//
// Two kinds of process are confined, in two ways:
//
//   - The pump confines itself (Pump) once it holds every descriptor it will
//     ever need. What is left is an allow list of system calls that work on
//     descriptors, memory and threads of its own; anything else ends it.
//   - A program that is not ours, the User-Mode Linux kernel, is started in a
//     cell (Command): namespaces of its own, an empty file system with the few
//     files it needs, no privilege, and a seccomp filter, all put in place
//     by a helper that then becomes that program (Main).
//
// Nothing here can be undone by the confined process.
package sandbox
