/* A stand-in for a directory service: a module of glibc's name service switch that reads /etc/directory/passwd and
 * /etc/directory/group, of the form of /etc/passwd and /etc/group. As SSSD and winbind do, it answers in its own
 * spelling: names are compared without case, and after "CORP\" and before "@corp.example". */
#define _GNU_SOURCE
#include <errno.h>
#include <grp.h>
#include <nss.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>

static int is_same(const char *asked, const char *canonical)
{
	char name[256];
	if (!strcasecmp(asked, canonical))
		return 1;
	if (!strncasecmp(asked, "CORP\\", 5))
		asked += 5;
	snprintf(name, sizeof name, "%s", asked);
	char *at = strchr(name, '@');
	if (at && !strcasecmp(at, "@corp.example"))
		*at = '\0';
	return !strcasecmp(name, canonical);
}

static enum nss_status user(const char *name, uid_t uid, struct passwd *result, char *buffer, size_t size, int *error)
{
	FILE *file = fopen("/etc/directory/passwd", "re");
	struct passwd *entry;
	enum nss_status status = NSS_STATUS_NOTFOUND;
	if (!file)
		return NSS_STATUS_UNAVAIL;
	while (!fgetpwent_r(file, result, buffer, size, &entry))
		if (name ? is_same(name, entry->pw_name) : entry->pw_uid == uid) {
			status = NSS_STATUS_SUCCESS;
			break;
		}
	fclose(file);
	*error = status == NSS_STATUS_SUCCESS ? 0 : ENOENT;
	return status;
}

static enum nss_status group(const char *name, gid_t gid, struct group *result, char *buffer, size_t size, int *error)
{
	FILE *file = fopen("/etc/directory/group", "re");
	struct group *entry;
	enum nss_status status = NSS_STATUS_NOTFOUND;
	if (!file)
		return NSS_STATUS_UNAVAIL;
	while (!fgetgrent_r(file, result, buffer, size, &entry))
		if (name ? !strcmp(name, entry->gr_name) : entry->gr_gid == gid) {
			status = NSS_STATUS_SUCCESS;
			break;
		}
	fclose(file);
	*error = status == NSS_STATUS_SUCCESS ? 0 : ENOENT;
	return status;
}

enum nss_status _nss_directory_getpwnam_r(const char *name, struct passwd *result, char *buffer, size_t size, int *error)
{
	return user(name, 0, result, buffer, size, error);
}

enum nss_status _nss_directory_getpwuid_r(uid_t uid, struct passwd *result, char *buffer, size_t size, int *error)
{
	return user(NULL, uid, result, buffer, size, error);
}

enum nss_status _nss_directory_getgrnam_r(const char *name, struct group *result, char *buffer, size_t size, int *error)
{
	return group(name, 0, result, buffer, size, error);
}

enum nss_status _nss_directory_getgrgid_r(gid_t gid, struct group *result, char *buffer, size_t size, int *error)
{
	return group(NULL, gid, result, buffer, size, error);
}
