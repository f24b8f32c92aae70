package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wanpair/accel/config"
	"wanpair/dedupe/history"
)

// cacheFile writes a configuration with one peer and returns it and the peer's cache directory.
func cacheFile(t *testing.T) (file, dir string) {
	t.Helper()
	base := t.TempDir()
	key := filepath.Join(base, "key")
	var out bytes.Buffer
	for _, name := range []string{key, key + ".peer"} {
		out.Reset()
		if code := run([]string{"keygen", "-o", name}, output{nil, &out, os.Stderr}); code != 0 {
			t.Fatal("keygen failed")
		}
	}
	file = filepath.Join(base, "wanpair.toml")
	text := `[site]
name = "ber"
private_key_file = "` + key + `"

[cache]
dir = "` + filepath.Join(base, "cache") + `"

[[peer]]
name = "nyc"
public_keys = ["` + strings.TrimSpace(out.String()) + `"]
endpoints = ["192.0.2.1:4600"]
subnets = ["10.2.0.0/16"]

[[forward]]
listen = "127.0.0.1:15432"
target = "10.2.0.5:5432"
peer = "nyc"
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(file); err != nil {
		t.Fatalf("the test's configuration: %v", err)
	}
	return file, filepath.Join(base, "cache", "nyc")
}

func TestCacheInfoAndVerify(t *testing.T) {
	file, dir := cacheFile(t)
	command := func(wantCode int, args ...string) string {
		t.Helper()
		var stdout, stderr bytes.Buffer
		if code := run(append(args, "-c", file), output{nil, &stdout, &stderr}); code != wantCode {
			t.Errorf("%v: exit code %d: %s", args, code, stderr.String())
		}
		return stdout.String() + stderr.String()
	}
	for _, args := range [][]string{{"cache", "info"}, {"cache", "verify"}} {
		if text := command(0, args...); !strings.Contains(text, "nothing yet") {
			t.Errorf("%v before anything ran: %s", args, text)
		}
	}
	disk, err := history.OpenEpochs(history.EpochsConfig{Dir: dir, SizeBytes: 1 << 30, BlocksPerEpoch: 8})
	if err != nil {
		t.Fatal(err)
	}
	if err := disk.SetLogs([2]history.State{{ID: history.LogID{1}, Head: 1 << 30}, {ID: history.LogID{2}}}); err != nil {
		t.Fatal(err)
	}
	for n := range uint64(3) {
		if err := disk.Put(&history.Sealed{Key: history.Key{Number: n}, Data: make([]byte, history.BlockBytes)}); err != nil {
			t.Fatal(err)
		}
	}
	if text := command(1, "cache", "verify"); !strings.Contains(text, "stop the gateway") {
		t.Errorf("verify of a cache in use: %s", text)
	}
	if text := command(0, "cache", "info"); !strings.Contains(strings.Join(strings.Fields(text), " "), "nyc written here 1 3 768 KiB") {
		t.Errorf("info:\n%s", text)
	}
	if err := disk.Close(time.Second); err != nil {
		t.Fatal(err)
	}
	if text := command(0, "cache", "verify"); !strings.Contains(text, "nyc: 3 blocks, 768 KiB good, 0 damaged") {
		t.Errorf("verify: %s", text)
	}
	if err := os.Truncate(filepath.Join(dir, "own-0000000000000000-00000008", "blocks", "000001.vlog"), 40); err != nil {
		t.Fatal(err)
	}
	if text := command(1, "cache", "verify"); !strings.Contains(text, "damaged") {
		t.Errorf("verify of a damaged cache: %s", text)
	}
}
