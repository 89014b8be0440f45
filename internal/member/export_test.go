package member

// DiskFault is diskFault, for the test of a disk that cannot be filled without privileges.
var DiskFault = diskFault

// ParseMembership is parseMembership, for the test of the golden file.
func ParseMembership(b []byte) (*savedMembership, error) { return parseMembership("testdata", b) }
