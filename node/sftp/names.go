package sftp

import (
	"bufio"
	"os"
	"strconv"
	"strings"
)

// names are those of the machine's users and groups. They are read when first needed.
type names struct {
	users, groups map[uint32]string
	homes         map[string]string
}

func (n *names) user(id uint32) string {
	n.load()
	return nameOr(n.users, id)
}

func (n *names) group(id uint32) string {
	n.load()
	return nameOr(n.groups, id)
}

func nameOr(known map[uint32]string, id uint32) string {
	if name, ok := known[id]; ok {
		return name
	}
	return strconv.FormatUint(uint64(id), 10)
}

func (n *names) home(user string) (string, bool) {
	n.load()
	home, ok := n.homes[user]
	return home, ok
}

func (n *names) load() {
	if n.users != nil {
		return
	}
	n.users, n.groups, n.homes = map[uint32]string{}, map[uint32]string{}, map[string]string{}
	each("/etc/passwd", 7, func(f []string, id uint32) {
		first(n.users, id, f[0])
		first(n.homes, f[0], f[5])
	})
	each("/etc/group", 4, func(f []string, id uint32) { first(n.groups, id, f[0]) })
}

// first keeps what the first line of a file says, as the C library does.
func first[K comparable](m map[K]string, key K, value string) {
	if _, known := m[key]; !known {
		m[key] = value
	}
}

// maxLine bounds one line: a group may have thousands of members.
const maxLine = 1 << 20

// each calls fn with the fields of the lines that are accounts or groups. Without the file, there are no names.
func each(path string, fields int, fn func(f []string, id uint32)) {
	file, err := os.Open(path)
	if err != nil {
		return
	}
	defer file.Close()
	s := bufio.NewScanner(file)
	s.Buffer(nil, maxLine)
	for s.Scan() {
		f := strings.Split(s.Text(), ":")
		if len(f) != fields {
			continue
		}
		if id, err := strconv.ParseUint(f[2], 10, 32); err == nil {
			fn(f, uint32(id))
		}
	}
}
