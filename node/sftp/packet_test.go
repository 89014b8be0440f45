package sftp_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/threshold-access/threshold/node/sftp"
)

// encode makes the parts of a packet: numbers as they are, text with its length.
func encode(kind byte, parts ...any) []byte {
	b := []byte{0, 0, 0, 0, kind}
	for _, p := range parts {
		switch p := p.(type) {
		case int:
			b = binary.BigEndian.AppendUint32(b, uint32(p))
		case uint64:
			b = binary.BigEndian.AppendUint64(b, p)
		case string:
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(p))), p...)
		}
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

var initPacket = encode(1, 3)

// serve sends packets and returns the kinds of the answers, with the code of each that is a status.
func serve(t testing.TB, packets ...[]byte) (answers [][]byte, err error) {
	t.Helper()
	var out bytes.Buffer
	err = sftp.Serve(bytes.NewReader(bytes.Join(packets, nil)), &out)
	for out.Len() > 0 {
		head := out.Next(4)
		answers = append(answers, bytes.Clone(out.Next(int(binary.BigEndian.Uint32(head)))))
	}
	return answers, err
}

// status is the code of an answer, or -1 when it is none.
func status(b []byte) int {
	if len(b) < 9 || b[0] != 101 {
		return -1
	}
	return int(binary.BigEndian.Uint32(b[5:]))
}

func TestInvalidRequestsAreAnswered(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := encode(3, 1, file, 1, 0) // for reading; its handle is 1
	folder := encode(11, 1, dir)
	h, nobodys := "\x00\x00\x00\x01", "\x00\x00\x00\x63"
	for _, tt := range []struct {
		name   string
		before [][]byte
		packet []byte
		want   int
	}{
		{"an unknown request", nil, encode(99, 7), 8},
		{"an unknown extension", nil, encode(200, 7, "nobody@example.com"), 8},
		{"a path cut short", nil, []byte{0, 0, 0, 9, 17, 0, 0, 0, 7, 0, 0, 0, 5}, 5},
		{"a path with a NUL", nil, encode(17, 7, file+"\x00.jpg"), 5},
		{"no path at all", nil, encode(13, 7), 5},
		{"an empty path", nil, encode(13, 7, ""), 2},
		{"attributes cut short", nil, encode(9, 7, file, 15, 1), 5},
		{"attributes that count without end", nil, encode(9, 7, file, -1<<31, -1), 5},
		{"a handle of nobody's", nil, encode(4, 7, nobodys), 2},
		{"a handle of another size", nil, encode(4, 7, "1"), 2},
		{"a handle closed twice", [][]byte{open, encode(4, 2, h)}, encode(4, 7, h), 2},
		{"a folder read as a file", [][]byte{folder}, encode(5, 7, h, uint64(0), 10), 2},
		{"a file listed as a folder", [][]byte{open}, encode(12, 7, h), 2},
		{"a read past the end", [][]byte{open}, encode(5, 7, h, uint64(4), 10), 1},
		{"a read at no place", [][]byte{open}, encode(5, 7, h, uint64(1<<63), 10), 5},
		{"a read beyond bounds", [][]byte{open}, encode(5, 7, h, uint64(0), -1), -1},
		{"a write to what is open for reading", [][]byte{open}, encode(6, 7, h, uint64(0), "x"), 2},
		{"a write cut short", [][]byte{open}, encode(6, 7, h, uint64(0), 99), 5},
		{"a length of a link", nil, encode(200, 7, "lsetstat@openssh.com", file, 1, uint64(0)), 5},
		{"a copy from itself", [][]byte{open}, encode(200, 7, "copy-data", h, uint64(0), uint64(0), h, uint64(0)), 4},
		{"names of ids cut short", nil, encode(200, 7, "users-groups-by-id@openssh.com", "\x00\x00\x00", ""), 5},
		{"a home of nobody's", nil, encode(200, 7, "home-directory", "nobody-here"), 2},
		{"a home", nil, encode(200, 7, "home-directory", "root"), -1},
	} {
		answers, err := serve(
			t,
			append(append([][]byte{initPacket}, tt.before...), tt.packet, encode(16, 8, "/"))...)
		if err != nil || len(answers) != len(tt.before)+3 {
			t.Errorf("%s: got %d answers, %v, want the conversation to go on", tt.name, len(answers), err)
			continue
		}
		if got := status(answers[len(answers)-2]); got != tt.want {
			t.Errorf("%s: got status %d, want %d", tt.name, got, tt.want)
		}
		if last := answers[len(answers)-1]; last[0] != 104 {
			t.Errorf("%s: got % x afterwards, want an answer", tt.name, last)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "text" {
		t.Errorf("got %q, %v, want the file untouched", b, err)
	}
}

func TestProtocolErrorsEndTheConnection(t *testing.T) {
	for name, packets := range map[string][]byte{
		"a request before the version": encode(16, 7, "/"),
		"a packet of no bytes":         append(bytes.Clone(initPacket), 0, 0, 0, 0),
		"a packet beyond bounds":       append(bytes.Clone(initPacket), 0, 4, 0, 1, 5),
		"a packet cut short":           append(bytes.Clone(initPacket), 0, 0, 1, 0, 5),
		"half a length":                append(bytes.Clone(initPacket), 0, 0),
		"a request without an id":      append(bytes.Clone(initPacket), encode(5)...),
	} {
		if _, err := serve(t, packets); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	if answers, err := serve(t); err != nil || len(answers) != 0 {
		t.Errorf("got %v, %v of a client that says nothing, want a clean end", answers, err)
	}
}

func TestAppendModeWritesAtTheEnd(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(file, []byte("one "), 0o600); err != nil {
		t.Fatal(err)
	}
	h := "\x00\x00\x00\x01"
	if _, err := serve(t, initPacket, encode(3, 1, file, 2|4, 0), encode(6, 2, h, uint64(0), "two "), encode(6, 3, h, uint64(0), "three")); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(file); string(got) != "one two three" {
		t.Errorf("got %q, want what was written at the end", got)
	}
}

func TestFsetstatChangesTheOpenFile(t *testing.T) {
	dir := t.TempDir()
	file, other := filepath.Join(dir, "file"), filepath.Join(dir, "other")
	for _, name := range []string{file, other} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h := "\x00\x00\x00\x01"
	_, err := serve(
		t,
		initPacket,
		encode(3, 1, file, 2, 0),
		encode(200, 2, "posix-rename@openssh.com", other, file),
		encode(10, 3, h, 8|4, 0o640, 1000, 1000),
	)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.ModTime().Unix() == 1000 || info.Mode() != 0o600 {
		t.Errorf("got %v, %v, want the file that took the name left alone", info.Mode(), err)
	}
}

func FuzzServe(f *testing.F) {
	h, dir := "\x00\x00\x00\x01", "\x00\x00\x00\x02"
	f.Add(
		bytes.Join(
			[][]byte{encode(6, 2, h, uint64(0), "x"), encode(5, 3, h, uint64(0), 9), encode(4, 4, h)},
			nil,
		),
	)
	f.Add(bytes.Join([][]byte{encode(12, 2, dir), encode(8, 3, dir), encode(12, 4, dir)}, nil))
	f.Add(encode(200, 7, "expand-path@openssh.com", "~root/.."))
	f.Add(encode(200, 7, "users-groups-by-id@openssh.com", "\x00\x00\x00\x00", "\x00\x00\x00\x05"))
	f.Add(encode(200, 7, "copy-data", h, uint64(0), uint64(1), dir, uint64(0)))
	folder := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		if harmless(b) {
			_, _ = serve(t, initPacket, encode(3, 1, "/dev/null", 3, 0), encode(11, 2, folder), b)
		}
	})
}

// harmless reports whether no packet can open or change a file of the machine that fuzzes: the two handles
// that are open may be used.
func harmless(b []byte) bool {
	const close, read, write, lstat, fstat, readdir, realpath, stat, readlink, extended = 4, 5, 6, 7, 8, 12, 16, 17, 19, 200
	kinds := []byte{1, close, read, write, lstat, fstat, readdir, realpath, stat, readlink, extended}
	for len(b) > 4 {
		size := int(binary.BigEndian.Uint32(b))
		if size == 0 || size > len(b)-4 {
			break
		}
		p := b[4 : 4+size]
		if !slices.Contains(kinds, p[0]) && p[0] < 100 || bytes.Contains(p, []byte("rename")) ||
			bytes.Contains(p, []byte("link@")) ||
			bytes.Contains(p, []byte("setstat")) {
			return false
		}
		b = b[4+size:]
	}
	return true
}

// readHook does something when what stands before it was read.
type readHook func()

func (m readHook) Read([]byte) (int, error) { m(); return 0, io.EOF }

// OpenSSH's client takes an answer without entries for the end of a folder.
func TestVanishedEntriesDoNotEndADirectoryListing(t *testing.T) {
	dir := t.TempDir()
	for i := range 250 {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list := encode(12, 2, "\x00\x00\x00\x01")
	empty := readHook(func() {
		old, _ := filepath.Glob(filepath.Join(dir, "*"))
		for _, name := range old {
			_ = os.Remove(name)
		}
	})
	var out bytes.Buffer
	if err := sftp.Serve(io.MultiReader(bytes.NewReader(slices.Concat(initPacket, encode(11, 1, dir), list)), empty, bytes.NewReader(list)), &out); err != nil {
		t.Fatal(err)
	}
	var last []byte
	for out.Len() > 0 {
		head := out.Next(4)
		last = bytes.Clone(out.Next(int(binary.BigEndian.Uint32(head))))
	}
	if status(last) != 1 {
		t.Errorf("got %x, want the end", last)
	}
}
