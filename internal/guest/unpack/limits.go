// SPDX-License-Identifier: Apache-2.0

package unpack

// Limits bound what one layer may ask for. A field that is zero takes the default.
type Limits struct {
	// Bytes is the sum of the sizes of all files, holes of sparse files included. Default: 64 GiB.
	Bytes int64 `json:"bytes"`
	// FileBytes is the size of one file. Default: 32 GiB.
	FileBytes int64 `json:"file_bytes"`
	// Entries is the number of entries. Default: 1 Mi.
	Entries int64 `json:"entries"`
	// PathBytes is the length of a name or of a link's target. Default and maximum: 4095, Linux's PATH_MAX less its NUL.
	PathBytes int `json:"path_bytes"`
	// Depth is how deep directories nest; removing a tree again takes a descriptor for each level. Default: 256.
	Depth int `json:"depth"`
	// Xattrs is the number of extended attributes of one entry, known or not. Default: 64.
	Xattrs int `json:"xattrs"`
	// XattrBytes is the length of one attribute's value. Default and maximum: 65536, Linux's XATTR_SIZE_MAX.
	XattrBytes int `json:"xattr_bytes"`
}

func (l Limits) withDefaults() Limits {
	set(&l.Bytes, 64<<30)
	set(&l.FileBytes, 32<<30)
	set(&l.Entries, 1<<20)
	set(&l.PathBytes, 4095)
	set(&l.Depth, 256)
	set(&l.Xattrs, 64)
	set(&l.XattrBytes, 65536)
	return l
}

func set[T int | int64](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// Stats say what a layer came to.
type Stats struct {
	Entries int64 `json:"entries"`
	Bytes   int64 `json:"bytes"`
	// Whiteouts counts whiteouts and opaque directories.
	Whiteouts int64 `json:"whiteouts"`
	// DevicesSkipped counts device nodes that were left out.
	DevicesSkipped int64 `json:"devices_skipped"`
	// XattrsSkipped counts extended attributes that were left out.
	XattrsSkipped int64 `json:"xattrs_skipped"`
}
