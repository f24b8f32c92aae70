package report

// Merge puts the rows of several reports together; a later report's row takes the place of an earlier one's. Machine, seed and time are the
// last one's, notes are all of them, each once.
func Merge(reports ...*Report) *Report {
	var all Report
	known := map[string]bool{}
	for _, r := range reports {
		all.Started, all.Machine, all.Seed = r.Started, r.Machine, r.Seed
		for _, note := range r.Notes {
			if !known[note] {
				known[note] = true
				all.Notes = append(all.Notes, note)
			}
		}
		all.Codec = append(all.Codec, r.Codec...)
		for i := range r.Rows {
			*all.Row(r.Rows[i].Key) = r.Rows[i]
		}
	}
	return &all
}
