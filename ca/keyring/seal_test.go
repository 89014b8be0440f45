package keyring_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/threshold-access/threshold/ca/keyring"
	"github.com/threshold-access/threshold/ca/keyring/keyringtest"
	"github.com/threshold-access/threshold/internal/fault"
)

// What is sealed can be opened, is different each time, and does not contain the plaintext.
func TestSealOpensWhatItSealed(t *testing.T) {
	t.Parallel()
	seal := keyringtest.Seal(t)
	for _, plain := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("secret"), 1000)} {
		a, err := seal.Seal("name", plain)
		if err != nil {
			t.Fatal(err)
		}
		b, err := seal.Seal("name", plain)
		if err != nil || bytes.Equal(a, b) {
			t.Errorf("got the same bytes twice (%v), want a fresh nonce", err)
		}
		if got, err := seal.Open("name", a); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("got %q, %v, want %q", got, err, plain)
		}
		if len(plain) > 1 && bytes.Contains(a, plain[:6]) {
			t.Error("got the plaintext in the sealed bytes")
		}
	}
}

// Sealed data that is changed, cut, opened under another name or with another key is refused.
func TestSealRefusesForeignOrAlteredData(t *testing.T) {
	t.Parallel()
	seal := keyringtest.Seal(t)
	sealed, err := seal.Seal("a", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 0x80
		_, err := seal.Open("a", bad)
		wantFault(t, fmt.Sprintf("byte %d flipped", i), err, fault.Invalid)
	}
	for n := range sealed {
		_, err := seal.Open("a", sealed[:n])
		wantFault(t, fmt.Sprintf("cut to %d", n), err, fault.Invalid)
	}
	for _, name := range []string{"", "b", "aa", "a\x00"} {
		_, err := seal.Open(name, sealed)
		wantFault(t, fmt.Sprintf("under the name %q", name), err, fault.Invalid)
	}
	_, err = keyringtest.Seal(t).Open("a", sealed)
	wantFault(t, "another key", err, fault.Invalid)
}

// Three spellings of a file URI name the same seal. Any other URI is refused, with the supported kind in the
// message.
func TestSealURI(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "seal.key")
	if err := keyring.CreateSealFile(path); err != nil {
		t.Fatal(err)
	}
	for _, u := range []string{"file://" + path, "FILE://" + path, "file:" + path} {
		seal, err := keyring.OpenSeal(u)
		if err != nil {
			t.Errorf("OpenSeal(%q): %v", u, err)
			continue
		}
		if want := "file://" + path; seal.URI() != want {
			t.Errorf("got %q, want %q", seal.URI(), want)
		}
	}
	for _, u := range []string{
		"",
		path,
		"file:",
		"file:seal.key",
		"file://host" + path,
		"file://" + path + "?x=1",
		"file://" + path + "#x",
		"pkcs11:token=x",
		"awskms:key-id=1",
		"%zz:",
	} {
		_, err := keyring.OpenSeal(u)
		wantFault(t, u, err, fault.Invalid)
	}
	_, err := keyring.OpenSeal("pkcs11:token=x")
	if !strings.Contains(fault.Message(err), "only: file") {
		t.Errorf("got %q, want it to name the supported kinds", fault.Message(err))
	}
}

// A new seal key file has mode 0600. An existing file, or a link in its place, is left as it is.
func TestSealFileIsPrivateAndNeverOverwritten(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "seal.key")
	if err := keyring.CreateSealFile(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != fs.FileMode(0o600) {
		t.Errorf("got %v, %v, want mode 0600", info.Mode(), err)
	}
	before, err := os.ReadFile(path)
	if err != nil || !bytes.HasPrefix(before, []byte("-----BEGIN THRESHOLD SEAL KEY-----")) {
		t.Errorf("got %q, %v, want PEM text", before, err)
	}
	wantFault(t, "again", keyring.CreateSealFile(path), fault.Conflict)
	if after, _ := os.ReadFile(path); !bytes.Equal(after, before) {
		t.Error("got another key, want the first one kept")
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Join(t.TempDir(), "elsewhere"), link); err != nil {
		t.Fatal(err)
	}
	wantFault(t, "through a dangling link", keyring.CreateSealFile(link), fault.Conflict)
	missing := filepath.Join(t.TempDir(), "no", "seal.key")
	wantFault(t, "no folder", keyring.CreateSealFile(missing), fault.Internal)
}

// A seal key file is read only if it is a regular file that no other account may read or write, and has
// exactly one key. No message contains the key.
func TestSealFileAccessibleToOthersIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good := filepath.Join(dir, "seal.key")
	if err := keyring.CreateSealFile(good); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	file := func(text []byte, mode fs.FileMode) func(string) error {
		return func(path string) error { return write(path, text, mode) }
	}
	otherType := bytes.ReplaceAll(text, []byte("SEAL"), []byte("FAKE"))
	shortKey := []byte("-----BEGIN THRESHOLD SEAL KEY-----\nAAAA\n-----END THRESHOLD SEAL KEY-----\n")
	filler := bytes.Repeat([]byte("x\n"), 1<<20)
	for _, tc := range []struct {
		name string
		make func(path string) error
		kind fault.Kind // "" means accepted
	}{
		{"only its owner may read it", file(text, 0o400), ""},
		{"everybody may read it", file(text, 0o644), fault.Denied},
		{"its group may read it", file(text, 0o640), fault.Denied},
		{"everybody may write it", file(text, 0o602), fault.Denied},
		{"it is a folder", func(p string) error { return os.Mkdir(p, 0o700) }, fault.Denied},
		{"it is a FIFO", func(p string) error { return syscall.Mkfifo(p, 0o600) }, fault.Denied},
		{"it is a link", func(p string) error { return os.Symlink(good, p) }, fault.NotFound},
		{"it does not exist", func(string) error { return nil }, fault.NotFound},
		{"it is empty", file(nil, 0o600), fault.Invalid},
		{"it is truncated", file(text[:60], 0o600), fault.Invalid},
		{"it has two keys", file(slices.Concat(text, text), 0o600), fault.Invalid},
		{"it is PEM of another type", file(otherType, 0o600), fault.Invalid},
		{"its key is too short", file(shortKey, 0o600), fault.Invalid},
		{"it is too large", file(slices.Concat(filler, text), 0o600), fault.Invalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "seal.key")
			if err := tc.make(path); err != nil {
				t.Fatal(err)
			}
			_, err := keyring.OpenSeal("file://" + path)
			if tc.kind == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantFault(t, tc.name, err, tc.kind)
			if strings.Contains(fmt.Sprint(err), string(text[40:60])) {
				t.Error("got the key in the message")
			}
		})
	}
}

// write writes a file of the mode, whatever the umask is.
func write(path string, text []byte, mode fs.FileMode) error {
	if err := os.WriteFile(path, text, mode); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

func TestSealFileOfAnotherAccountIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "seal.key")
	if err := keyring.CreateSealFile(path); err != nil {
		t.Fatal(err)
	}
	// Only root can change the owner of a file. Other accounts try a file of root, which is refused for its
	// mode.
	if os.Geteuid() != 0 {
		path = "/etc/hostname"
	} else if err := os.Chown(path, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	_, err := keyring.OpenSeal("file://" + path)
	wantFault(t, "another owner", err, fault.Denied)
}
