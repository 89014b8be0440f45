package sftp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// maxNames is how many entries one reply has. Each has its name (255 bytes at most) twice, so a reply stays
// below maxPacket.
const maxNames = 100

// readDir serves SSH_FXP_READDIR (draft section 6.7): it replies with the next entries of the directory, or
// with io.EOF after the last. The first two are the directory itself and its parent, as from OpenSSH's
// server. A reply has at least one entry, because clients take a reply without entries for the end.
func (s *server) readDir(req *packet) error {
	dir, err := s.dirHandle(req)
	if err != nil {
		return err
	}
	for {
		names, err := dir.readNames()
		if err != nil {
			return err
		}
		entries, n := s.entries(dir, names)
		if n == 0 {
			continue // all of them were removed since
		}
		s.reply(typeName, func(b []byte) []byte {
			b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, req.id), n)
			return append(b, entries...)
		})
		return nil
	}
}

// readNames returns the next names of a directory, and io.EOF at the end.
func (h *handle) readNames() ([]string, error) {
	var names []string
	if !h.started {
		names = []string{".", ".."}
	}
	more, err := h.file.Readdirnames(maxNames - len(names))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	h.started = true
	if names = append(names, more...); len(names) == 0 {
		return nil, io.EOF
	}
	return names, nil
}

// entries returns the entries of a directory for these names, encoded, and how many they are. It leaves out
// files that were removed since the names were read, and files that the account may not examine.
func (s *server) entries(dir *handle, names []string) (b []byte, n uint32) {
	for _, name := range names {
		var st unix.Stat_t
		if unix.Fstatat(int(dir.file.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			continue
		}
		b = appendAttrs(appendString(appendString(b, name), s.names.longName(name, &st)), &st)
		n++
	}
	return b, n
}

// typeChars are the types of files as ls shows them.
var typeChars = map[uint32]byte{
	unix.S_IFREG:  '-',
	unix.S_IFDIR:  'd',
	unix.S_IFLNK:  'l',
	unix.S_IFCHR:  'c',
	unix.S_IFBLK:  'b',
	unix.S_IFIFO:  'p',
	unix.S_IFSOCK: 's',
}

// modeText returns a mode as ls -l shows it, such as "-rwxr-x---". In place of x it shows s or t for the
// set-id and sticky bits, and S or T if x itself is not set.
func modeText(mode uint32) string {
	out := []byte("?rwxrwxrwx")
	if kind, known := typeChars[mode&unix.S_IFMT]; known {
		out[0] = kind
	}
	for i := range 9 { // from the highest bit, r of the owner, to the lowest
		if mode&(1<<(8-i)) == 0 {
			out[i+1] = '-'
		}
	}
	for _, special := range []struct {
		bit         uint32
		at          int
		with, alone byte // what ls shows if x is set, and if it is not
	}{{unix.S_ISUID, 3, 's', 'S'}, {unix.S_ISGID, 6, 's', 'S'}, {unix.S_ISVTX, 9, 't', 'T'}} {
		if mode&special.bit == 0 {
			continue
		}
		if out[special.at] == 'x' {
			out[special.at] = special.with
		} else {
			out[special.at] = special.alone
		}
	}
	return string(out)
}

// recent is how long ls shows the time of day of a change, and not the year.
const recent = 365 * 24 * time.Hour / 2

// longName returns an entry as ls -l shows it. Some clients show it to the user unchanged.
func (n *nameTables) longName(name string, st *unix.Stat_t) string {
	at := time.Unix(st.Mtim.Unix())
	layout := "Jan _2 15:04"
	if age := time.Since(at); age > recent || age < 0 {
		layout = "Jan _2  2006"
	}
	return fmt.Sprintf("%s %4d %-8s %-8s %12d %s %s",
		modeText(st.Mode), st.Nlink, n.user(st.Uid), n.group(st.Gid), st.Size, at.Format(layout), name)
}
