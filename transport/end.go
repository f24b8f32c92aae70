package transport

// End ends the session from this side, with all its flows: err says why, code is what the flows' users are told. The peer learns of it from
// the next hello. It does nothing to a session that has ended.
func (s *Session) End(err error, code AbortCode) {
	if s.Err() == nil {
		s.link.drop(s, err, code)
	}
}
