// Package server starts real servers and clients for the benchmark, each in a network namespace of its own choosing, with a private
// configuration in a directory of the caller's, and stops them again.
//
// It promises that a server it returns has answered on its port, that a server which died says why (the tail of its log is in the error),
// that nothing outlives the process that started it, and that a program that is not installed is named together with the Debian package
// that holds it. No service of the machine is touched: other ports, other directories, no file under /etc.
//
// Nouns: a place is a network namespace and the address by which others reach it. A process is one running program with its log. A tool is
// a program looked up by name.
package server
