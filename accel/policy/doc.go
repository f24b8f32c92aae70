// Package policy owns the decision what happens to a connection, and the numbered reasons given for every one that is not accelerated.
//
// It promises that the same rules, addresses and situation always give the same decision: it holds no sockets, no clock and no state that changes. A
// Policy may be used by any number of goroutines.
//
// Its nouns: an Action is what is done with a connection; a Reason is why it is not accelerated, with a number and a name that never change their meaning; a
// Situation is what the gateway knows at the moment of the decision.
package policy
