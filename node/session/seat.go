package session

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// utmpEntry is somebody at a terminal, as the machine's own records show it (utmp(5), lastlog): who, last and
// lastlog read them. Files that are not there are not made: a machine that does without them says so by that.
type utmpEntry struct {
	machine Database
	line    string // as "pts/3"
	acc     Account
	from    netip.Addr
}

// Kinds of entries in utmp(5).
const (
	initProcess = 5
	userProcess = 7
	deadProcess = 8
)

// layout is how glibc lays the records out. On amd64 they keep the 32-bit times of old; on arm64 they were 64
// bits wide from the start.
type layout struct{ wide bool }

// Sizes of the fields.
const (
	lineBytes  = 32
	userBytes  = 32
	hostBytes  = 256
	idBytes    = 4
	kindOffset = 0
	idOffset   = 40 // after a 16-bit kind, padding, a 32-bit process number and the line
)

// hostLayout is this machine's layout. On other processors no records are kept.
func hostLayout() (layout, bool) {
	return layout{wide: runtime.GOARCH == "arm64"}, runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64"
}

// utmp is one record of utmp and wtmp. An end names no user.
func (l layout) utmp(kind int, s utmpEntry, pid int, now time.Time) []byte {
	var b bytes.Buffer
	put := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) } // both processors; to memory, it never fails
	text := func(s string, size int) { put(append([]byte(s), make([]byte, size)...)[:size]) }
	put(int32(kind)) // 16 bits and padding
	put(int32(pid))
	text(s.line, lineBytes)
	text(s.line[max(0, len(s.line)-idBytes):], idBytes)
	if kind == userProcess {
		text(string(s.acc.Login), userBytes)
		text(hostOf(s.from), hostBytes)
	} else {
		text("", userBytes+hostBytes)
	}
	put(int32(0)) // how it ended, which nobody fills in
	if l.wide {
		put([]int64{int64(pid), now.Unix(), int64(now.Nanosecond() / 1000)})
	} else {
		put([]int32{int32(pid), int32(now.Unix()), int32(now.Nanosecond() / 1000)})
	}
	put(addressOf(s.from))
	text("", 20) // reserved
	if l.wide {
		text("", 4) // to a multiple of 8
	}
	return b.Bytes()
}

func hostOf(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// addressOf has an IPv4 address in its first four bytes.
func addressOf(a netip.Addr) (out [16]byte) {
	copy(out[:], a.AsSlice())
	return out
}

// lastlog is the record of an account's last login.
func (l layout) lastlog(s utmpEntry, now time.Time) []byte {
	b := make([]byte, 0, 8+lineBytes+hostBytes)
	if l.wide {
		b = binary.LittleEndian.AppendUint64(b, uint64(now.Unix()))
	} else {
		b = binary.LittleEndian.AppendUint32(b, uint32(now.Unix()))
	}
	for _, f := range []struct {
		text string
		size int
	}{{s.line, lineBytes}, {hostOf(s.from), hostBytes}} {
		b = append(b, append([]byte(f.text), make([]byte, f.size)...)[:f.size]...)
	}
	return b
}

// LastLogin reads when and from where the account logged in before.
func (a Database) LastLogin(acc Account) (at time.Time, from string, ok bool) {
	l, known := hostLayout()
	f, err := os.Open(a.path("var/log/lastlog"))
	if err != nil || !known {
		return at, "", false
	}
	defer f.Close()
	b := l.lastlog(utmpEntry{}, at)
	if _, err := f.ReadAt(b, int64(acc.UID)*int64(len(b))); err != nil {
		return at, "", false // it never did
	}
	seconds := int64(binary.LittleEndian.Uint32(b))
	if l.wide {
		seconds = int64(binary.LittleEndian.Uint64(b))
	}
	host, _, _ := strings.Cut(string(b[len(b)-hostBytes:]), "\x00")
	return time.Unix(seconds, 0), host, seconds != 0
}

// markActive shows the seat as taken by the process. It is called before the program starts, with our own
// number, and once more when it has one, so that a program never finds itself missing.
func (s utmpEntry) markActive(pid int) error {
	l, ok := hostLayout()
	if !ok {
		return nil
	}
	return replaceEntry(s.machine.path("run/utmp"), l.utmp(userProcess, s, pid, s.machine.now()))
}

// recordLogin adds the login to the records that stay.
func (s utmpEntry) recordLogin(pid int) error {
	l, ok := hostLayout()
	if !ok {
		return nil
	}
	now := s.machine.now()
	last := l.lastlog(s, now)
	return errors.Join(appendEntry(s.machine.path("var/log/wtmp"), l.utmp(userProcess, s, pid, now)),
		updateLocked(s.machine.path("var/log/lastlog"), func(f *os.File) error {
			_, err := f.WriteAt(last, int64(s.acc.UID)*int64(len(last)))
			return err
		}))
}

// recordLogout shows the seat as free again, and records when it became so.
func (s utmpEntry) recordLogout(pid int) error {
	l, ok := hostLayout()
	if !ok {
		return nil
	}
	e := l.utmp(deadProcess, s, pid, s.machine.now())
	return errors.Join(
		replaceEntry(s.machine.path("run/utmp"), e),
		appendEntry(s.machine.path("var/log/wtmp"), e),
	)
}

// maxUtmp bounds what is read of utmp: 2,600 terminals.
const maxUtmp = 1 << 20

// replaceEntry puts the entry in the place of the one with its id, or at the end.
func replaceEntry(path string, entry []byte) error {
	return updateLocked(path, func(f *os.File) error {
		all, err := io.ReadAll(io.LimitReader(f, maxUtmp))
		if err != nil {
			return err
		}
		at := 0
		for ; at+len(entry) <= len(all); at += len(entry) {
			old := all[at:]
			if kind := old[kindOffset]; kind >= initProcess && kind <= deadProcess &&
				bytes.Equal(old[idOffset:idOffset+idBytes], entry[idOffset:idOffset+idBytes]) {
				break
			}
		}
		_, err = f.WriteAt(entry, int64(at))
		return err
	})
}

// appendEntry puts the entry at the end, over what an interrupted writer left of one.
func appendEntry(path string, entry []byte) error {
	return updateLocked(path, func(f *os.File) error {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		_, err = f.WriteAt(entry, info.Size()-info.Size()%int64(len(entry)))
		return err
	})
}

const (
	lockTries = 20
	lockPause = 10 * time.Millisecond
)

// errLocked says that somebody holds a record. Everyone may read them, and so lock them: nobody waits long
// for that.
var errLocked = errors.New("a record of the machine is locked")

// updateLocked opens a record and locks it against other writers of the machine.
func updateLocked(path string, fn func(*os.File) error) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close() // unlocks
	for range lockTries {
		err := unix.FcntlFlock(
			f.Fd(),
			unix.F_OFD_SETLK,
			&unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart},
		)
		if err == nil {
			return fn(f)
		}
		if err != unix.EAGAIN && err != unix.EACCES {
			return err
		}
		time.Sleep(lockPause)
	}
	return errLocked
}

// utmpEntryFor is the seat at a terminal, or none: only root keeps the machine's records.
func (a Database) utmpEntryFor(acc Account, s Spec, tty string) *utmpEntry {
	if a.UID != 0 {
		return nil
	}
	from, _ := netip.ParseAddrPort(s.ClientAddr)
	return &utmpEntry{
		machine: a,
		line:    strings.TrimPrefix(filepath.Clean(tty), "/dev/"),
		acc:     acc,
		from:    from.Addr().Unmap(),
	}
}
