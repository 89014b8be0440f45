// Package loginrecord answers: who is logged in on this machine's terminals, and who was?
//
// It writes the login records that who(1), last(1) and lastlog(8) read: utmp(5), wtmp and lastlog. It creates
// none of the files: a machine without a file keeps no such record.
package loginrecord

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Files are the login records of one machine. It is a value without state: methods may be called
// concurrently, and with other programs of the machine, because every change locks its file.
type Files struct {
	Root string           // the directory that holds run and var; empty means /
	Now  func() time.Time // nil means time.Now
}

// Entry describes one login on a terminal.
type Entry struct {
	Line  string // the terminal's name below /dev, as "pts/3"; utmp has one entry for each
	Login string
	UID   uint32
	From  netip.Addr // the client's address; the zero Addr if it is not known
}

func (f Files) path(name string) string { return filepath.Join("/", f.Root, name) }

func (f Files) now() time.Time {
	if f.Now == nil {
		return time.Now()
	}
	return f.Now()
}

// MarkActive writes to utmp that the process pid uses the terminal. It is called twice: before the program
// starts, with the agent's own process id, and then with the program's. So a program that looks for itself in
// utmp finds the terminal from its first moment on.
func (f Files) MarkActive(entry Entry, pid int) error {
	layout, ok := hostLayout()
	if !ok {
		return nil
	}
	return replaceEntry(f.path("run/utmp"), layout.utmp(userProcess, entry, pid, f.now()))
}

// RecordLogin adds the login to wtmp, the history of logins, and makes it the account's last login in
// lastlog.
func (f Files) RecordLogin(entry Entry, pid int) error {
	layout, ok := hostLayout()
	if !ok {
		return nil
	}
	now := f.now()
	last := layout.lastlog(entry, now)
	return errors.Join(
		appendEntry(f.path("var/log/wtmp"), layout.utmp(userProcess, entry, pid, now)),
		updateLocked(f.path("var/log/lastlog"), func(file *os.File) error {
			_, err := file.WriteAt(last, int64(entry.UID)*int64(len(last))) // by user id
			return err
		}))
}

// RecordLogout writes to utmp that the terminal is not used any more, and adds the end of the login to wtmp.
func (f Files) RecordLogout(entry Entry, pid int) error {
	layout, ok := hostLayout()
	if !ok {
		return nil
	}
	b := layout.utmp(deadProcess, entry, pid, f.now())
	return errors.Join(replaceEntry(f.path("run/utmp"), b), appendEntry(f.path("var/log/wtmp"), b))
}

// LastLogin returns when the account logged in last, and from which address; from may be empty. ok is false
// if there is no record of it.
func (f Files) LastLogin(uid uint32) (at time.Time, from string, ok bool) {
	layout, known := hostLayout()
	if !known {
		return at, "", false
	}
	file, err := os.Open(f.path("var/log/lastlog"))
	if err != nil {
		return at, "", false
	}
	defer file.Close()
	b := layout.lastlog(Entry{}, at) // only for its length: the bytes are overwritten
	if _, err := file.ReadAt(b, int64(uid)*int64(len(b))); err != nil {
		return at, "", false // the account never logged in
	}
	seconds := int64(binary.LittleEndian.Uint32(b))
	if layout.wide {
		seconds = int64(binary.LittleEndian.Uint64(b))
	}
	host, _, _ := strings.Cut(string(b[len(b)-hostBytes:]), "\x00")
	return time.Unix(seconds, 0), host, seconds != 0
}

// maxUtmp bounds, in bytes, what is read of utmp: some 2,600 terminals.
const maxUtmp = 1 << 20

// replaceEntry overwrites the entry in the file that has the same id as entry. If there is none, it adds
// entry at the end.
func replaceEntry(path string, entry []byte) error {
	return updateLocked(path, func(file *os.File) error {
		all, err := io.ReadAll(io.LimitReader(file, maxUtmp))
		if err != nil {
			return err
		}
		offset := 0
		for ; offset+len(entry) <= len(all); offset += len(entry) {
			if sameID(all[offset:], entry) {
				break
			}
		}
		_, err = file.WriteAt(entry, int64(offset))
		return err
	})
}

// sameID reports whether old is an entry of a process and has the same id as entry.
func sameID(old, entry []byte) bool {
	kind := old[kindOffset]
	return kind >= initProcess && kind <= deadProcess &&
		bytes.Equal(old[idOffset:idOffset+idBytes], entry[idOffset:idOffset+idBytes])
}

// appendEntry adds the entry at the end, over a partial entry that an interrupted writer left there.
func appendEntry(path string, entry []byte) error {
	return updateLocked(path, func(file *os.File) error {
		info, err := file.Stat()
		if err != nil {
			return err
		}
		_, err = file.WriteAt(entry, info.Size()-info.Size()%int64(len(entry)))
		return err
	})
}

// lockTries and lockPause bound the wait for a lock to 200 ms: every account may read the records, and so
// lock them, and a session must not wait for that.
const (
	lockTries = 20
	lockPause = 10 * time.Millisecond
)

// errLocked says that another process kept a record locked for as long as we wait.
var errLocked = errors.New("a login record is locked by another process")

// updateLocked opens the file at path, locks it against other writers of the machine, calls fn and returns
// its error. It does nothing if the file does not exist, and returns errLocked if another writer holds the
// lock for too long. The lock belongs to the open file (fcntl(2), F_OFD_SETLK): it also excludes other
// sessions of this process, and closing the file releases it.
func updateLocked(path string, fn func(*os.File) error) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	for range lockTries {
		lock := &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
		err := unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, lock)
		if err == nil {
			return fn(file)
		}
		if err != unix.EAGAIN && err != unix.EACCES {
			return err
		}
		time.Sleep(lockPause)
	}
	return errLocked
}
