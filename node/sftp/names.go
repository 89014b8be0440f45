package sftp

import (
	"bufio"
	"os"
	"strconv"
	"strings"
)

// nameTables are the names of the machine's users and groups. They are read when first needed.
type nameTables struct {
	users, groups map[uint32]string
	homes         map[string]string
}

func (n *nameTables) user(id uint32) string {
	n.load()
	return nameOr(n.users, id)
}

func (n *nameTables) group(id uint32) string {
	n.load()
	return nameOr(n.groups, id)
}

// nameOr returns the name of an id, or the id itself in decimal.
func nameOr(known map[uint32]string, id uint32) string {
	if name, ok := known[id]; ok {
		return name
	}
	return strconv.FormatUint(uint64(id), 10)
}

func (n *nameTables) home(user string) (string, bool) {
	n.load()
	home, ok := n.homes[user]
	return home, ok
}

// load reads the files once. Changes to them during the connection are not seen.
func (n *nameTables) load() {
	if n.users != nil {
		return
	}
	n.users, n.groups, n.homes = map[uint32]string{}, map[uint32]string{}, map[string]string{}
	eachEntry("/etc/passwd", 7, func(f []string, id uint32) {
		setFirst(n.users, id, f[0])
		setFirst(n.homes, f[0], f[5])
	})
	eachEntry("/etc/group", 4, func(f []string, id uint32) { setFirst(n.groups, id, f[0]) })
}

// setFirst sets a value unless the key has one: the first line of a file wins, as in the C library.
func setFirst[K comparable](m map[K]string, key K, value string) {
	if _, known := m[key]; !known {
		m[key] = value
	}
}

// maxLine bounds one line, in bytes: a group may have thousands of members.
const maxLine = 1 << 20

// eachEntry calls fn with the fields and the id, which is the third field, of each line of a file that has
// fieldCount fields, separated by colons. It skips other lines. Without the file it calls nothing.
func eachEntry(path string, fieldCount int, fn func(fields []string, id uint32)) {
	file, err := os.Open(path)
	if err != nil {
		return
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) != fieldCount {
			continue
		}
		if id, err := strconv.ParseUint(fields[2], 10, 32); err == nil {
			fn(fields, uint32(id))
		}
	}
}
