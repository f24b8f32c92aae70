package config

import (
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPrivateKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "private.key")
	if err := WritePrivateKey(path, testKey(1)); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, want 0600", info.Mode())
	}
	got, err := ReadPrivateKey(path)
	if err != nil || !got.Equal(testKey(1)) {
		t.Errorf("read back %v, %v", got != nil, err)
	}
	if err := WritePrivateKey(path, testKey(2)); !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), "not overwritten") {
		t.Errorf("second write: %v, want a refusal", err)
	}
	if again, err := ReadPrivateKey(path); err != nil || !again.Equal(testKey(1)) {
		t.Error("the refused write changed the file")
	}
}

func TestReadPrivateKeyRefuses(t *testing.T) {
	dir := t.TempDir()
	tests := []struct {
		name, content string
		mode          os.FileMode
		want          string
	}{
		{"group may read", FormatPrivateKey(testKey(1)), 0o640, "chmod 600"},
		{"others may read", FormatPrivateKey(testKey(1)), 0o604, "chmod 600"},
		{"empty", "", 0o600, "one line of base64"},
		{"short", "QUJD\n", 0o600, "one line of base64"},
		{"no base64", strings.Repeat("!", 44), 0o600, "one line of base64"},
		{"large", strings.Repeat("A", keyFileLimit+1), 0o600, "too large"},
	}
	for _, tt := range tests {
		path := filepath.Join(dir, strings.ReplaceAll(tt.name, " ", "-"))
		if err := os.WriteFile(path, []byte(tt.content), tt.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, tt.mode); err != nil { // whatever the umask is
			t.Fatal(err)
		}
		_, err := ReadPrivateKey(path)
		if !errors.Is(err, ErrKey) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q in it", tt.name, err, tt.want)
		}
		if tt.content != "" && err != nil && strings.Contains(err.Error(), strings.TrimSpace(tt.content)) {
			t.Errorf("%s: the error shows the file's content", tt.name)
		}
	}
	if _, err := ReadPrivateKey(dir); !errors.Is(err, ErrKey) {
		t.Errorf("directory: %v, want ErrKey", err)
	}
}

func TestPublicKeyText(t *testing.T) {
	key := testPublic(1)
	back, err := ParsePublicKey(FormatPublicKey(key))
	if err != nil || !back.Equal(key) {
		t.Errorf("read back %v, %v", back, err)
	}
	for _, text := range []string{"", "abc", FormatPublicKey(key) + "=", FormatPublicKey(key[:31]), FormatPublicKey(append(ed25519.PublicKey{0}, key...))} {
		if _, err := ParsePublicKey(text); !errors.Is(err, ErrKey) {
			t.Errorf("ParsePublicKey(%q) = %v, want ErrKey", text, err)
		}
	}
}
