package loginrecord_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/threshold-access/threshold/node/loginrecord"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// utmpSize is the length of one utmp entry of this machine.
var utmpSize = len(loginrecord.UtmpRecord(runtime.GOARCH == "arm64"))

// emptyFiles makes empty login records.
func emptyFiles(t *testing.T) loginrecord.Files {
	t.Helper()
	root := t.TempDir()
	for _, name := range []string{"run/utmp", "var/log/wtmp", "var/log/lastlog"} {
		path := filepath.Join(root, name)
		err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o600))
		if err != nil {
			t.Fatal(err)
		}
	}
	return loginrecord.Files{Root: root, Now: func() time.Time { return time.Unix(1000000000, 0) }}
}

func size(t *testing.T, files loginrecord.Files, name string) int {
	t.Helper()
	info, err := os.Stat(filepath.Join(files.Root, name))
	if err != nil {
		t.Fatal(err)
	}
	return int(info.Size())
}

func entry(line string) loginrecord.Entry {
	return loginrecord.Entry{Line: line, Login: "alice", UID: 1000, From: netip.MustParseAddr("192.0.2.7")}
}

// The sizes and offsets are those of glibc's <utmp.h> and <lastlog.h> on amd64 and arm64.
func TestLayoutMatchesGlibc(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		wide                     bool
		utmpSize, seconds        int
		addressOffset, lastlSize int
	}{{false, 384, 340, 348, 292}, {true, 400, 344, 360, 296}} {
		e, last := loginrecord.UtmpRecord(tt.wide), loginrecord.LastlogRecord(tt.wide)
		if len(e) != tt.utmpSize || len(last) != tt.lastlSize {
			t.Errorf("wide %v: got %d and %d bytes, want %d and %d",
				tt.wide, len(e), len(last), tt.utmpSize, tt.lastlSize)
		}
		if got := binary.LittleEndian.Uint32(e[tt.seconds:]); got != 1000000000 {
			t.Errorf("wide %v: got time %d, want 1000000000", tt.wide, got)
		}
		if got := e[tt.addressOffset : tt.addressOffset+4]; !bytes.Equal(got, []byte{192, 0, 2, 7}) {
			t.Errorf("wide %v: got address %v", tt.wide, got)
		}
		if e[0] != 7 || binary.LittleEndian.Uint32(e[4:]) != 42 || string(e[40:44]) != "ts/3" {
			t.Errorf("wide %v: got type %d, process %v and id %q", tt.wide, e[0], e[4:8], e[40:44])
		}
		for offset, want := range map[int]string{8: "pts/3\x00", 44: "alice\x00", 76: "192.0.2.7\x00"} {
			if !bytes.HasPrefix(e[offset:], []byte(want)) {
				t.Errorf("wide %v: got % x at %d, want %q", tt.wide, e[offset:offset+len(want)], offset, want)
			}
		}
	}
}

// utmp has one entry for each terminal, wtmp the begin and end of each login, and lastlog the last login of
// each account.
func TestLoginsAreRecordedOncePerTerminal(t *testing.T) {
	t.Parallel()
	files := emptyFiles(t)
	if _, _, ok := files.LastLogin(1000); ok {
		t.Error("got a last login from empty records")
	}
	for _, line := range []string{"pts/3", "pts/4", "pts/3"} {
		e := entry(line)
		err := errors.Join(files.MarkActive(e, 1), files.RecordLogin(e, 42), files.RecordLogout(e, 42))
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := size(t, files, "run/utmp"); got != 2*utmpSize {
		t.Errorf("got %d bytes of utmp, want one entry for each of two terminals (%d)", got, 2*utmpSize)
	}
	if got := size(t, files, "var/log/wtmp"); got != 6*utmpSize {
		t.Errorf("got %d bytes of wtmp, want the begin and end of three logins (%d)", got, 6*utmpSize)
	}
	if at, from, ok := files.LastLogin(1000); !ok || at.Unix() != 1000000000 || from != "192.0.2.7" {
		t.Errorf("got %v, %q, %v, want the recorded login", at, from, ok)
	}
	if _, _, ok := files.LastLogin(1001); ok {
		t.Error("got a last login of another account")
	}
}

func TestPartialEntryIsOverwritten(t *testing.T) {
	t.Parallel()
	files := emptyFiles(t)
	wtmp := filepath.Join(files.Root, "var/log/wtmp")
	if err := os.WriteFile(wtmp, make([]byte, utmpSize+7), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := files.RecordLogin(entry("pts/3"), 42); err != nil {
		t.Fatal(err)
	}
	if got := size(t, files, "var/log/wtmp"); got != 2*utmpSize {
		t.Errorf("got %d bytes, want two whole entries (%d)", got, 2*utmpSize)
	}
}

func TestMissingFilesAreNotCreated(t *testing.T) {
	t.Parallel()
	files := loginrecord.Files{Root: t.TempDir()}
	e := entry("pts/3")
	err := errors.Join(files.MarkActive(e, 1), files.RecordLogin(e, 1), files.RecordLogout(e, 1))
	if err != nil {
		t.Errorf("got %v, want nothing done without an error", err)
	}
	if _, err := os.Stat(filepath.Join(files.Root, "run/utmp")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v for utmp, want that it does not exist", err)
	}
}

func TestLockedFileIsAnError(t *testing.T) {
	t.Parallel()
	files := emptyFiles(t)
	reader, err := os.Open(filepath.Join(files.Root, "run/utmp")) // as any account that may read it
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := unix.FcntlFlock(reader.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK}); err != nil {
		t.Fatal(err)
	}
	if err := files.MarkActive(entry("pts/3"), 1); err == nil {
		t.Error("got no error from a locked file")
	}
	if got := size(t, files, "run/utmp"); got != 0 {
		t.Errorf("got %d bytes, want the locked file unchanged", got)
	}
}
