// Package lab builds a network in namespaces on one Linux machine and runs programs in it:
//
//	cli 10.1.0.2 --- lan0 10.1.0.1 gwA wan0 10.9.0.1 === 10.9.0.2 wan0 gwB 10.2.0.1 lan0 --- 10.2.0.2 srv
//	    fd00:1::2        fd00:1::1          fd00:9::1       fd00:9::2       fd00:2::1        fd00:2::2
//
// The double line is an emulated WAN link (package bench/link); the single ones are veth pairs. The gateways forward, so without any
// program in them the client reaches the server directly over the link.
//
// It promises that labs of several processes do not meet (their namespaces carry the process's number), that Down removes everything
// also after a step that failed, and that a lab does not outlive the process that built it: the link's emulator is a child process that
// notices its parent's end and takes the lab down. What is left when both were killed is found by Sweep.
//
// Nouns: a lab is the four namespaces and the link. A node is one namespace.
//
// A program that builds labs must call Main first thing in its main function (in tests: in TestMain), because the emulator is the same
// program started again.
package lab
