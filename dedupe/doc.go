// Package dedupe turns the bytes of flows into frames that name what the other side already has, and back.
//
// It owns part B of docs/protocol.md: codec frames, the two logs of a link, what each side holds of them, and the messages that keep both in
// step. It knows nothing of sockets, lanes or time: bytes and messages go in, frames and messages come out.
//
// It promises:
//
//   - Decode returns exactly the bytes that were encoded or an error, whatever happened to either side's cache.
//   - Damage on disk is a cold cache or a miss, never an error of Open and never a wrong byte.
//   - Nothing is allocated by a number that the peer chose before it was checked.
//   - An idle encoder or decoder takes less than 1 KiB; what coding takes is borrowed for the time of a frame.
//
// # Nouns
//
// A Codec serves one link. A log is a sequence of bytes with 64-bit positions, one per direction, cut into blocks of 256 KiB; both
// sides hold both logs and index both. A copy refers to a log's bytes; literals are what no copy covers. The ledger says which bytes both
// sides hold. A session is one run of both processes together; encoders and decoders belong to the session they were made in.
//
// # Use
//
//	c, err := dedupe.Open(dedupe.Config{Dir: dir, SizeBytes: 64 << 30, MemoryBytes: 2 << 30})
//	err = c.Begin(session.SendCodec, common) // for every new session, before its frames; common is what both sides understand
//	err = c.HandleMessage(msg)              // every CODEC message, in order, from one goroutine
//
//	e := c.NewEncoder(flow)
//	e.Share()                               // when the other side decodes the flow as it comes
//	frame, err := e.Encode(buf[:0], data, flow.NextNumber(), false) // then send it, once, in order
//	e.Acked(next)                           // from the transport; any goroutine
//	e.Close(true)                           // after END was encoded; false when the flow was aborted
//
//	d := c.NewDecoder(flow)
//	out, end, err := d.Decode(buf[:0], payload, number, rawLen) // then acknowledge the frame's number
//	for errors.Is(err, dedupe.ErrWait) {                        // it refers to bytes that are on their way, or were lost here
//		late := wait(d.Ready(), deadline)
//		out, end, err = d.Resume(late)
//	}
//
// Encoders and decoders must be made after Begin. Before the peer's READY has come frames are literals only and store nothing; that costs
// bytes, never an error, so flows need not wait. Close(true) may come before the last acknowledgements: call Acked until they are in.
// Encode may be called for a frame of no bytes with end set. A frame that was encoded and cannot be sent ends its flow: Close(false).
//
// The send function given to Begin must queue and return; it must not call back into the codec.
package dedupe
