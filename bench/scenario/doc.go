// Package scenario holds what the benchmark does: which real programs talk to each other over which link, what they move, and how it is
// checked that every byte arrived.
//
// It promises that all columns of a scenario move the same bytes over the same link in the same order, that nothing is remembered from one
// column or run to the next (each has namespaces, servers and caches of its own), that what arrived was compared with what was sent, and
// that a run over a link which was late is not counted.
//
// Nouns: a scenario has phases, played in order: cold, again, changed, or names of its own. A column is one way to carry the bytes. A
// play is one scenario by one column from the first phase to the last. A stage is where it is played: a lab and a directory. Material is
// what all plays of a scenario share: files, databases as of two nights.
package scenario
