package sshd

import (
	"reflect"
	"sync"
	"unsafe"

	"golang.org/x/crypto/ssh"
)

const (
	// maxWindow is what the library lets a client send on a channel before any of it was taken (RFC 4254
	// section 5.2). One that sends more than its program takes makes the node hold as much.
	maxWindow = 2 << 20
	// windowBudget is what all clients together may send ahead, but for minWindow each. The first channels
	// get much of it, which far clients need to be fast; the more there are, the less the next gets. So the
	// node stays small when many send at once.
	windowBudget = 3 << 19
	minWindow    = 64 << 10
)

// windows shares out what clients may send ahead.
type windows struct {
	mu       sync.Mutex // guards given
	assigned int
}

// assign gives a channel that was not accepted yet its share, until the function that it returns is called.
func (w *windows) assign(nc ssh.NewChannel) (giveBack func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	share := min(max((windowBudget-w.assigned)*2/3, minWindow), maxWindow)
	setWindow(nc, uint32(share))
	w.assigned += share
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.assigned -= share
	}
}

// setWindow changes what Accept will tell the client. The library has no option for it, so this reaches for
// the field by its name: where there is none, the window is the library's own. A test says so when that
// happens (decision 13).
func setWindow(nc ssh.NewChannel, bytes uint32) bool {
	v := reflect.ValueOf(nc)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return false
	}
	field := v.Elem().FieldByName("myWindow")
	if field.Kind() != reflect.Uint32 || uint32(field.Uint()) < bytes {
		return false
	}
	*(*uint32)(unsafe.Pointer(field.UnsafeAddr())) = bytes
	return true
}
