"""Names of GUID partition types.

Source: UEFI Specification 2.10, table 5.7; Discoverable Partitions Specification; Microsoft
``PARTITION_INFORMATION_GPT``; Apple TN2166 and fsck_apfs(8); FreeBSD gpart(8); the types of other systems as
their own documentation gives them.
"""

from __future__ import annotations

from typing import Final

TYPES: Final = {
    # everybody
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b": "EFI System",
    "024dee41-33e7-11d3-9d69-0008c781f39f": "MBR scheme",
    "21686148-6449-6e6f-744e-656564454649": "BIOS boot",
    "bc13c2ff-59e6-4262-a352-b275fd6f7172": "Extended boot loader",
    # Microsoft
    "e3c9e316-0b5c-4db8-817d-f92df00215ae": "Microsoft reserved",
    "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": "Microsoft basic data",
    "de94bba4-06d1-4d40-a16a-bfd50179d6ac": "Windows recovery",
    "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3": "LDM metadata",
    "af9b60a0-1431-4f62-bc68-3311714a69ad": "LDM data",
    "e75caf8f-f680-4cee-afa3-b001e56efc2d": "Storage Spaces",
    "558d43c5-a1ac-43c0-aac8-d1472b2923d1": "Storage Replica",
    # Linux
    "0fc63daf-8483-4772-8e79-3d69d8477de4": "Linux",
    "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "Linux swap",
    "e6d6d379-f507-44c2-a23c-238f2a3df928": "Linux LVM",
    "a19d880f-05fc-4d3b-a006-743f0f84911e": "Linux RAID",
    "933ac7e1-2eb4-4f13-b844-0e14e2aef915": "Linux home",
    "3b8f8425-20e0-4f3b-907f-1a25a76f98e8": "Linux srv",
    "4d21b016-b534-45c2-a9fb-5c16e091fd2d": "Linux var",
    "8da63339-0007-60c0-c436-083ac8230908": "Linux reserved",
    "44479540-f297-41b2-9af7-d131d5f0458a": "Linux root (x86)",
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709": "Linux root (x86-64)",
    "69dad710-2ce4-4e3c-b16c-21a1d49abed3": "Linux root (ARM)",
    "b921b045-1df0-41c3-af44-4c6f280d3fae": "Linux root (ARM64)",
    "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5": "Linux root verity (x86-64)",
    "ca7d7ccb-63ed-4c53-861c-1742536059cc": "Linux LUKS",
    "7ffec5c9-2d00-49b7-8941-3ea10a5586b7": "Linux dm-crypt",
    # Apple
    "48465300-0000-11aa-aa11-00306543ecac": "Apple HFS+",
    "7c3457ef-0000-11aa-aa11-00306543ecac": "Apple APFS",
    "55465300-0000-11aa-aa11-00306543ecac": "Apple UFS",
    "52414944-0000-11aa-aa11-00306543ecac": "Apple RAID",
    "52414944-5f4f-11aa-aa11-00306543ecac": "Apple RAID offline",
    "426f6f74-0000-11aa-aa11-00306543ecac": "Apple boot",
    "4c616265-6c00-11aa-aa11-00306543ecac": "Apple label",
    "5265636f-7665-11aa-aa11-00306543ecac": "Apple TV recovery",
    "53746f72-6167-11aa-aa11-00306543ecac": "Apple CoreStorage",
    "69646961-6700-11aa-aa11-00306543ecac": "Apple APFS preboot",
    "52637672-7900-11aa-aa11-00306543ecac": "Apple APFS recovery",
    # BSD
    "83bd6b9d-7f41-11dc-be0b-001560b84f0f": "FreeBSD boot",
    "516e7cb4-6ecf-11d6-8ff8-00022d09712b": "FreeBSD disklabel",
    "516e7cb5-6ecf-11d6-8ff8-00022d09712b": "FreeBSD swap",
    "516e7cb6-6ecf-11d6-8ff8-00022d09712b": "FreeBSD UFS",
    "516e7cb8-6ecf-11d6-8ff8-00022d09712b": "FreeBSD vinum",
    "516e7cba-6ecf-11d6-8ff8-00022d09712b": "FreeBSD ZFS",
    "49f48d32-b10e-11dc-b99b-0019d1879648": "NetBSD swap",
    "49f48d5a-b10e-11dc-b99b-0019d1879648": "NetBSD FFS",
    "49f48d82-b10e-11dc-b99b-0019d1879648": "NetBSD LFS",
    "49f48daa-b10e-11dc-b99b-0019d1879648": "NetBSD RAID",
    "824cc7a0-36a8-11e3-890a-952519ad3f61": "OpenBSD data",
    # Solaris: the type of /usr is Apple's for ZFS, too
    "6a82cb45-1dd2-11b2-99a6-080020736631": "Solaris boot",
    "6a85cf4d-1dd2-11b2-99a6-080020736631": "Solaris root",
    "6a87c46f-1dd2-11b2-99a6-080020736631": "Solaris swap",
    "6a8b642b-1dd2-11b2-99a6-080020736631": "Solaris backup",
    "6a898cc3-1dd2-11b2-99a6-080020736631": "Solaris usr, ZFS",
    "6a8ef2e9-1dd2-11b2-99a6-080020736631": "Solaris var",
    "6a90ba39-1dd2-11b2-99a6-080020736631": "Solaris home",
    "6a945a3b-1dd2-11b2-99a6-080020736631": "Solaris reserved",
    # others
    "fe3a2a5d-4f32-41a7-b725-accc3285a309": "ChromeOS kernel",
    "3cb8e202-3b7e-47dd-8a3c-7ff2a13cfcec": "ChromeOS root",
    "2e0a753d-9e48-43b0-8337-b15192cb1b5e": "ChromeOS reserved",
    "42465331-3ba3-10f1-802a-4861696b7521": "Haiku BFS",
    "37affc90-ef7d-4e96-91c3-2d7ae055b174": "IBM GPFS",
    "9d275380-40ad-11db-bf97-000c2911d1b8": "VMware VMKcore",
    "aa31e02a-400f-11db-9590-000c2911d1b8": "VMware VMFS",
    "9198effc-31c0-11db-8f78-000c2911d1b8": "VMware reserved",
    "4fbd7e29-9d25-41b8-afd0-062c0ceff05d": "Ceph OSD",
    "9e1a2d38-c612-4316-aa26-8b49521e5a8b": "PowerPC PReP boot",
    "c91818f9-8025-47af-89d2-f030d7000c2c": "Plan 9",
}
