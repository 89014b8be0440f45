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

// Types of packets (draft-ietf-secsh-filexfer-02 section 3).
const (
	fxpInit     = 1
	fxpOpen     = 3
	fxpClose    = 4
	fxpRead     = 5
	fxpWrite    = 6
	fxpLstat    = 7
	fxpFstat    = 8
	fxpSetstat  = 9
	fxpFsetstat = 10
	fxpOpendir  = 11
	fxpReaddir  = 12
	fxpRemove   = 13
	fxpRealpath = 16
	fxpStat     = 17
	fxpReadlink = 19
	fxpStatus   = 101
	fxpName     = 104
	fxpExtended = 200
)

// Status codes (section 7) and open flags (section 6.3).
const (
	eof         = 1
	noSuchFile  = 2
	failure     = 4
	badMessage  = 5
	unsupported = 8

	forReading = 1
	forWriting = 2
	appending  = 4
)

// firstHandle is the first handle that a server gives out.
const firstHandle = "\x00\x00\x00\x01"

// encode makes a packet: numbers are encoded as they are, strings with their length.
func encode(kind byte, fields ...any) []byte {
	b := []byte{0, 0, 0, 0, kind}
	for _, f := range fields {
		switch f := f.(type) {
		case int:
			b = binary.BigEndian.AppendUint32(b, uint32(f))
		case uint64:
			b = binary.BigEndian.AppendUint64(b, f)
		case string:
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(f))), f...)
		}
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

var initPacket = encode(fxpInit, 3)

// serve sends packets to a server and returns its replies, without their lengths.
func serve(t testing.TB, packets ...[]byte) (replies [][]byte, err error) {
	t.Helper()
	var out bytes.Buffer
	err = sftp.Serve(bytes.NewReader(bytes.Join(packets, nil)), &out)
	return split(&out), err
}

func split(out *bytes.Buffer) (packets [][]byte) {
	for out.Len() > 0 {
		size := int(binary.BigEndian.Uint32(out.Next(4)))
		packets = append(packets, bytes.Clone(out.Next(size)))
	}
	return packets
}

// notStatus is what status returns for another reply.
const notStatus = -1

// status returns the code of a status reply.
func status(reply []byte) int {
	if len(reply) < 9 || reply[0] != fxpStatus {
		return notStatus
	}
	return int(binary.BigEndian.Uint32(reply[5:]))
}

// A request that is invalid or cannot be done gets the status that OpenSSH's server sends. The next request
// is served all the same, and no file is changed.
func TestInvalidRequestsAreAnswered(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	openFile := [][]byte{encode(fxpOpen, 1, file, forReading, 0)}
	openDir := [][]byte{encode(fxpOpendir, 1, dir)}
	closed := append(slices.Clone(openFile), encode(fxpClose, 2, firstHandle))
	const h, unknown = firstHandle, "\x00\x00\x00\x63"
	start, beyond := uint64(0), uint64(1<<63)
	truncated := []byte{0, 0, 0, 9, fxpStat, 0, 0, 0, 7, 0, 0, 0, 5}
	extended := func(fields ...any) []byte { return encode(fxpExtended, append([]any{7}, fields...)...) }
	next := encode(fxpRealpath, 8, "/")
	for _, tt := range []struct {
		name   string
		before [][]byte
		packet []byte // with request id 7
		want   int
	}{
		{"an unknown request", nil, encode(99, 7), unsupported},
		{"an unknown extension", nil, extended("nobody@example.com"), unsupported},
		{"a path cut short", nil, truncated, badMessage},
		{"a path with a NUL", nil, encode(fxpStat, 7, file+"\x00.jpg"), badMessage},
		{"no path", nil, encode(fxpRemove, 7), badMessage},
		{"an empty path", nil, encode(fxpRemove, 7, ""), noSuchFile},
		{"attributes cut short", nil, encode(fxpSetstat, 7, file, 15, 1), badMessage},
		{"too many extended attributes", nil, encode(fxpSetstat, 7, file, -1<<31, -1), badMessage},
		{"an unknown handle", nil, encode(fxpClose, 7, unknown), noSuchFile},
		{"a handle of another size", nil, encode(fxpClose, 7, "1"), noSuchFile},
		{"a handle closed twice", closed, encode(fxpClose, 7, h), noSuchFile},
		{"a directory read as a file", openDir, encode(fxpRead, 7, h, start, 10), noSuchFile},
		{"a file listed as a directory", openFile, encode(fxpReaddir, 7, h), noSuchFile},
		{"a read at the end", openFile, encode(fxpRead, 7, h, uint64(4), 10), eof},
		{"a read at a negative offset", openFile, encode(fxpRead, 7, h, beyond, 10), badMessage},
		{"a read of 4 GiB", openFile, encode(fxpRead, 7, h, start, -1), notStatus},
		{"a write to a file open for reading", openFile, encode(fxpWrite, 7, h, start, "x"), noSuchFile},
		{"a write cut short", openFile, encode(fxpWrite, 7, h, start, 99), badMessage},
		{"a size of a link", nil, extended("lsetstat@openssh.com", file, 1, start), badMessage},
		{"a copy to itself", openFile, extended("copy-data", h, start, start, h, start), failure},
		{"ids cut short", nil, extended("users-groups-by-id@openssh.com", "\x00\x00\x00", ""), badMessage},
		{"the home of an unknown user", nil, extended("home-directory", "nobody-here"), noSuchFile},
		{"the home of a user", nil, extended("home-directory", "root"), notStatus},
	} {
		packets := slices.Concat([][]byte{initPacket}, tt.before, [][]byte{tt.packet, next})
		replies, err := serve(t, packets...)
		if err != nil || len(replies) != len(packets) {
			t.Errorf("%s: got %d replies, %v, want %d", tt.name, len(replies), err, len(packets))
			continue
		}
		if got := status(replies[len(replies)-2]); got != tt.want {
			t.Errorf("%s: got status %d, want %d", tt.name, got, tt.want)
		}
		if last := replies[len(replies)-1]; last[0] != fxpName {
			t.Errorf("%s: got % x for the next request, want a path", tt.name, last)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "text" {
		t.Errorf("got %q, %v, want the file unchanged", b, err)
	}
}

func TestProtocolErrorsEndTheConnection(t *testing.T) {
	t.Parallel()
	for name, packets := range map[string][]byte{
		"a request before the version": encode(fxpRealpath, 7, "/"),
		"a packet of no bytes":         append(bytes.Clone(initPacket), 0, 0, 0, 0),
		"a packet that is too long":    append(bytes.Clone(initPacket), 0, 4, 0, 1, 5),
		"a packet cut short":           append(bytes.Clone(initPacket), 0, 0, 1, 0, 5),
		"a length cut short":           append(bytes.Clone(initPacket), 0, 0),
		"a request without an id":      append(bytes.Clone(initPacket), encode(fxpRead)...),
	} {
		if _, err := serve(t, packets); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	if replies, err := serve(t); err != nil || len(replies) != 0 {
		t.Errorf("got %v, %v from a client that sends nothing, want a clean end", replies, err)
	}
}

func TestAppendModeWritesAtTheEnd(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(file, []byte("one "), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := serve(t, initPacket,
		encode(fxpOpen, 1, file, forWriting|appending, 0),
		encode(fxpWrite, 2, firstHandle, uint64(0), "two "),
		encode(fxpWrite, 3, firstHandle, uint64(0), "three"))
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(file); string(got) != "one two three" {
		t.Errorf("got %q, want the writes at the end", got)
	}
}

// fsetstat changes the file that was opened, and not another file that has taken its name since.
func TestFsetstatChangesTheOpenFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, other := filepath.Join(dir, "file"), filepath.Join(dir, "other")
	for _, name := range []string{file, other} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const modeAndTimes = 8 | 4
	_, err := serve(t, initPacket,
		encode(fxpOpen, 1, file, forWriting, 0),
		encode(fxpExtended, 2, "posix-rename@openssh.com", other, file),
		encode(fxpFsetstat, 3, firstHandle, modeAndTimes, 0o640, 1000, 1000))
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.ModTime().Unix() == 1000 || info.Mode() != 0o600 {
		t.Errorf("got %v of %v, want the file that took the name unchanged", info.Mode(), info.ModTime())
	}
}

// hook is a reader of nothing that calls a function when it is read.
type hook func()

func (h hook) Read([]byte) (int, error) { h(); return 0, io.EOF }

// OpenSSH's client takes a reply without entries for the end of a directory.
func TestVanishedEntriesDoNotEndADirectoryListing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i := range 250 {
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list := encode(fxpReaddir, 2, firstHandle)
	removeAll := hook(func() {
		names, _ := filepath.Glob(filepath.Join(dir, "*"))
		for _, name := range names {
			_ = os.Remove(name)
		}
	})
	opened := slices.Concat(initPacket, encode(fxpOpendir, 1, dir), list)
	in := io.MultiReader(bytes.NewReader(opened), removeAll, bytes.NewReader(list))
	var out bytes.Buffer
	if err := sftp.Serve(in, &out); err != nil {
		t.Fatal(err)
	}
	replies := split(&out)
	if last := replies[len(replies)-1]; status(last) != eof {
		t.Errorf("got %x, want the end of the directory", last)
	}
}

// No sequence of requests makes the server panic. Requests that could change files of the machine are left
// out.
func FuzzServe(f *testing.F) {
	const file, dir = firstHandle, "\x00\x00\x00\x02"
	start := uint64(0)
	f.Add(bytes.Join([][]byte{
		encode(fxpWrite, 2, file, start, "x"), encode(fxpRead, 3, file, start, 9), encode(fxpClose, 4, file),
	}, nil))
	f.Add(bytes.Join([][]byte{
		encode(fxpReaddir, 2, dir), encode(fxpFstat, 3, dir), encode(fxpReaddir, 4, dir),
	}, nil))
	f.Add(encode(fxpExtended, 7, "expand-path@openssh.com", "~root/.."))
	f.Add(encode(fxpExtended, 7, "users-groups-by-id@openssh.com", "\x00\x00\x00\x00", "\x00\x00\x00\x05"))
	f.Add(encode(fxpExtended, 7, "copy-data", file, start, uint64(1), dir, start))
	empty := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		if isHarmless(b) {
			openFile := encode(fxpOpen, 1, "/dev/null", forReading|forWriting, 0)
			_, _ = serve(t, initPacket, openFile, encode(fxpOpendir, 2, empty), b)
		}
	})
}

// isHarmless reports whether no packet can open or change a file of the machine that fuzzes. Packets may use
// the two handles that are open.
func isHarmless(b []byte) bool {
	readOnly := []byte{
		fxpInit, fxpClose, fxpRead, fxpWrite, fxpLstat, fxpFstat, fxpReaddir, fxpRealpath, fxpStat,
		fxpReadlink,
	}
	for len(b) > 4 {
		size := int(binary.BigEndian.Uint32(b))
		if size == 0 || size > len(b)-4 {
			break
		}
		p := b[4 : 4+size]
		isRequest := p[0] < 100
		if isRequest && !slices.Contains(readOnly, p[0]) {
			return false
		}
		for _, extension := range []string{"rename", "link@", "setstat"} {
			if bytes.Contains(p, []byte(extension)) {
				return false
			}
		}
		b = b[4+size:]
	}
	return true
}
