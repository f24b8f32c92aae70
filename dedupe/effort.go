package dedupe

// contexts is the number of streaming literal contexts that the peer may keep open towards us.
func (c *Codec) contexts() int { return 0 }

// onContexts notes how many the peer grants us.
func (c *Codec) onContexts(int) {}

// effort is the zstd level in use.
func (c *Codec) effort() int { return 0 }
