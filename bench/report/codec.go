package report

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// CodecRow is what `wanbench codec --json` says of one file: files sent one after the other through encoder and decoder, one history.
type CodecRow struct {
	File       string  `json:"file"`
	RawBytes   int64   `json:"raw_bytes"`
	WireBytes  int64   `json:"wire_bytes"`
	Ratio      float64 `json:"ratio"`
	EncodeRate float64 `json:"encode_mb_per_cpu_second"`
	DecodeRate float64 `json:"decode_mb_per_cpu_second"`
	Verified   bool    `json:"verified"`
}

// ReadCodec reads the rows of one run of `wanbench codec --json`. Rows that were not verified are an error.
func ReadCodec(path string) ([]CodecRow, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var rows []CodecRow
	if err := json.Unmarshal(data, &rows); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrFormat, err)
	}
	for i, row := range rows {
		if !row.Verified || row.RawBytes <= 0 || row.WireBytes <= 0 {
			return nil, fmt.Errorf("%s: %w: %s is not verified, or empty", path, ErrFormat, row.File)
		}
		rows[i].File = filepath.Join(filepath.Base(filepath.Dir(row.File)), filepath.Base(row.File))
	}
	return rows, nil
}

// codecHead are the columns of the table of codec rows.
var codecHead = []string{"file", "raw", "on the wire", "ratio", "encode, MB per CPU second", "decode, MB per CPU second"}

const codecText = "Files through encoder and decoder alone, without a link, one after the other with one history (`wanbench codec`): what came before in the same group is what a later file is matched with. Every byte was compared."

func (c CodecRow) cells() []string {
	return []string{c.File, Bytes(float64(c.RawBytes)), Bytes(float64(c.WireBytes)), Times(c.Ratio), fmt.Sprintf("%.0f", c.EncodeRate), fmt.Sprintf("%.0f", c.DecodeRate)}
}

// markdownCodec writes one table for each group of files.
func (r *Report) markdownCodec(b *strings.Builder) {
	if len(r.Codec) == 0 {
		return
	}
	fmt.Fprintf(b, "\n## Codec\n\n%s\n", codecText)
	for _, group := range r.Codec {
		fmt.Fprintf(b, "\n| %s |\n|%s\n", strings.Join(codecHead, " | "), strings.Repeat("---|", len(codecHead)))
		for _, row := range group {
			fmt.Fprintf(b, "| %s |\n", strings.Join(row.cells(), " | "))
		}
	}
}

// codecCells are the cells of all groups, for the page.
func (r *Report) codecCells() [][]string {
	var cells [][]string
	for _, group := range r.Codec {
		for _, row := range group {
			cells = append(cells, row.cells())
		}
	}
	return cells
}
