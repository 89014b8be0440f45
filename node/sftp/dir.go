package sftp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// maxNames is how many entries one answer has. With names of 255 bytes twice, they stay below the size of a
// packet.
const maxNames = 100

// readDir answers with the next entries, the folder itself and its parent first, as OpenSSH's server does.
// There is at least one: clients take an answer without any for the end.
func (s *server) readDir(p *packet) error {
	h, err := s.handle(p, true)
	if err != nil {
		return err
	}
	for {
		list, err := h.readNames()
		if err != nil {
			return err
		}
		if b, n := s.entries(h, list); n > 0 {
			s.reply(typeName, func(out []byte) []byte {
				return append(
					binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(out, p.id), n),
					b...)
			})
			return nil
		}
	}
}

// readNames are the next of a folder.
func (h *handle) readNames() ([]string, error) {
	var list []string
	if !h.started {
		list = []string{".", ".."}
	}
	more, err := h.file.Readdirnames(maxNames - len(list))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	h.started = true
	if list = append(list, more...); len(list) == 0 {
		return nil, io.EOF
	}
	return list, nil
}

// entries are those of the names that are still there, or that the account may look at, and how many.
func (s *server) entries(h *handle, list []string) (b []byte, n uint32) {
	for _, name := range list {
		var st unix.Stat_t
		if unix.Fstatat(int(h.file.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			continue
		}
		b = appendAttrs(appendString(appendString(b, name), s.names.longName(name, &st)), &st)
		n++
	}
	return b, n
}

// typeChars of files, as ls shows them.
var typeChars = map[uint32]byte{
	unix.S_IFREG:  '-',
	unix.S_IFDIR:  'd',
	unix.S_IFLNK:  'l',
	unix.S_IFCHR:  'c',
	unix.S_IFBLK:  'b',
	unix.S_IFIFO:  'p',
	unix.S_IFSOCK: 's',
}

// modeText is a mode as ls shows it.
func modeText(mode uint32) string {
	out := []byte("?rwxrwxrwx")
	if kind, known := typeChars[mode&unix.S_IFMT]; known {
		out[0] = kind
	}
	for i := range 9 {
		if mode&(1<<(8-i)) == 0 {
			out[i+1] = '-'
		}
	}
	for _, special := range []struct {
		bit         uint32
		at          int
		with, alone byte
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

// recent is how long ls shows the time of day of a change.
const recent = 365 * 24 * time.Hour / 2

// longName is an entry as ls -l shows it, for clients that show it as it comes.
func (n *nameTables) longName(name string, st *unix.Stat_t) string {
	at := time.Unix(st.Mtim.Unix())
	layout := "Jan _2 15:04"
	if age := time.Since(at); age > recent || age < 0 {
		layout = "Jan _2  2006"
	}
	return fmt.Sprintf(
		"%s %4d %-8s %-8s %12d %s %s",
		modeText(st.Mode),
		st.Nlink,
		n.user(st.Uid),
		n.group(st.Gid),
		st.Size,
		at.Format(layout),
		name,
	)
}
