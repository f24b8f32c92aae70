package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// text is a real text of some length: this package's own source.
func text(t *testing.T) []byte {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
	}
	return all
}

func runEstimate(t *testing.T, c estimateCmd) estimate {
	t.Helper()
	c.JSON, c.CacheSize, c.Memory, c.Top = filepath.Join(t.TempDir(), "e.json"), "256MiB", "64MiB", 10
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(c.JSON)
	if err != nil {
		t.Fatal(err)
	}
	var e estimate
	if err := json.Unmarshal(data, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestEstimateFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(dir, name), text(t), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	e := runEstimate(t, estimateCmd{Files: []string{dir}})
	if len(e.Rows) != 2 || e.Total.RawBytes != 2*int64(len(text(t))) {
		t.Fatalf("%+v", e)
	}
	if first := e.Rows[0]; filepath.Base(first.Name) != "a" || first.Ratio < 2 {
		t.Errorf("the first sight: %+v", first)
	}
	if second := e.Rows[1]; second.Ratio < 50 {
		t.Errorf("the second copy: %+v", second)
	}
}

// conversation makes a capture of one connection in which the server sends data.
func conversation(data []byte, clientPort, serverPort uint16) []byte {
	var f []byte
	packet := func(fromServer bool, seq uint32, flags byte, payload []byte) {
		p := make([]byte, 40, 40+len(payload))
		p[0], p[9] = 0x45, 6
		binary.BigEndian.PutUint16(p[2:], uint16(40+len(payload)))
		from, to := byte(1), byte(2)
		source, destination := clientPort, serverPort
		if fromServer {
			from, to, source, destination = to, from, destination, source
		}
		copy(p[12:], []byte{10, 0, 0, from, 10, 0, 0, to})
		binary.BigEndian.PutUint16(p[20:], source)
		binary.BigEndian.PutUint16(p[22:], destination)
		binary.BigEndian.PutUint32(p[24:], seq)
		p[32], p[33] = 5<<4, flags
		p = append(p, payload...)
		for _, v := range []uint32{1, 0, uint32(len(p)), uint32(len(p))} {
			f = binary.LittleEndian.AppendUint32(f, v)
		}
		f = append(f, p...)
	}
	const syn, ack, fin = 2, 16, 1
	packet(false, 0, syn, nil)
	packet(true, 0, syn|ack, nil)
	packet(false, 1, ack, []byte("GET / HTTP/1.0\r\n\r\n"))
	seq := uint32(1)
	for len(data) > 0 {
		n := min(1400, len(data))
		packet(true, seq, ack, data[:n])
		seq, data = seq+uint32(n), data[n:]
	}
	packet(true, seq, fin|ack, nil)
	return f
}

func TestEstimateCapture(t *testing.T) {
	data := text(t)
	file := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	file = append(file, make([]byte, 12)...)
	file = append(file, 255, 255, 0, 0, 101, 0, 0, 0)
	file = append(file, conversation(data, 40000, 80)...)
	file = append(file, conversation(data, 40001, 8080)...)
	path := filepath.Join(t.TempDir(), "c.pcap")
	if err := os.WriteFile(path, file, 0o644); err != nil {
		t.Fatal(err)
	}
	e := runEstimate(t, estimateCmd{Pcap: []string{path}})
	rows := map[string]estimateRow{}
	for _, row := range e.Rows {
		rows[row.Name] = row
	}
	const request = 18
	for _, port := range []string{"port 80", "port 8080"} {
		if row := rows[port]; row.RawBytes != int64(len(data))+request || row.Flows != 2 {
			t.Errorf("%s: %+v, want %d bytes", port, row, len(data)+request)
		}
	}
	if rows["port 80"].Ratio < 2 || rows["port 8080"].Ratio < 40 {
		t.Errorf("%+v", rows)
	}
}

func TestEstimateArguments(t *testing.T) {
	for _, c := range []estimateCmd{{}, {Files: []string{"x"}, Pcap: []string{"y"}}} {
		if err := c.Run(); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
	path := filepath.Join(t.TempDir(), "no.pcap")
	if err := os.WriteFile(path, []byte("this is no capture"), 0o644); err != nil {
		t.Fatal(err)
	}
	err := estimateCmd{Pcap: []string{path}, CacheSize: "256MiB", Memory: "64MiB"}.Run()
	if err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("no capture: %v", err)
	}
}

func TestEstimateTable(t *testing.T) {
	e := estimate{Total: estimateRow{Name: "all", Flows: 3, RawBytes: 3000, WireBytes: 300}}
	for _, name := range []string{"one", "two", "three"} {
		e.Rows = append(e.Rows, estimateRow{Name: name, Flows: 1, RawBytes: 1000, WireBytes: 100})
	}
	var b bytes.Buffer
	if err := e.print(&b, 1); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"one", "2 more", "90.0 %", "10.0x", "all"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}
