package spool

import "slices"

// DiskFault is diskFault, for a test without the privileges to fill a disk.
var DiskFault = diskFault

// AddWaiting makes the spool count n more events as waiting, without their files: to write tens of thousands
// of files takes seconds. The spool must not run after that.
func (s *Spool) AddWaiting(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = append(s.names, slices.Repeat([]string{"00000000000000000000-absent" + fileSuffix}, n)...)
}
