// Package remote keeps the sealed blocks of a history in a child process.
//
// Badger reads and writes through mapped files. A full disk, a bad sector or a file cut short is then a bus error in one of its goroutines, and a
// disk that hangs is a thread that cannot be ended: neither may happen to a process that carries traffic. So the gateway starts itself once
// more, as a child that does nothing but [Serve] a directory of epochs over a socket pair, and [Start] gives the gateway a [Client], which is
// a [history.Disk] that survives whatever happens to the child.
//
// The package promises: no method of a Client waits for a child longer than the limits in this file say; a child that dies or hangs is started again,
// ever more slowly, and after repeated deaths left alone for a minute, with a reason to read; an epoch whose reading or writing kills the
// child twice is given up; and when the gateway dies, the child closes its files and ends.
//
// The nouns: a frame is one request or one answer; a call is a request that waits for its answer; a life is one child from start to death.
package remote

import "time"

// Limits of waiting.
const (
	// openWait is what Start waits for the first child; a cache of 1 TiB opens in a second or two. After it the gateway goes on without.
	openWait = 15 * time.Second
	// lockWait is how long Start tries while another process has the directory: the child of a gateway that was killed ends within it.
	lockWait = 5 * time.Second
	// upWait is how long a read waits for a child that is being started, which takes some 100 ms, putWait a write.
	upWait  = 1500 * time.Millisecond
	putWait = 5 * time.Second
	// hangLimit is the age of the oldest unanswered call at which a child counts as hung and is killed; openLimit that of a child that
	// has not said that it is ready.
	hangLimit = 10 * time.Second
	openLimit = 60 * time.Second
	// stallLimit is the age of the oldest unanswered read at which the cache counts as off until there is an answer.
	stallLimit = 1500 * time.Millisecond
	// pingEvery is how often an idle child is asked for its status.
	pingEvery = time.Second
	// reapLimit is how long a killed child is waited for. One that hangs in the kernel ends when the disk answers, if ever.
	reapLimit = 2 * time.Second
	// orphanLimit is how long a child may take to close when its gateway is gone.
	orphanLimit = 20 * time.Second
)

// Limits of starting again.
const (
	firstBackoff = 10 * time.Millisecond
	maxBackoff   = 5 * time.Second
	// maxDeaths within deathSpan switch the cache off for offPause.
	maxDeaths = 5
	deathSpan = time.Minute
	offPause  = time.Minute
)
